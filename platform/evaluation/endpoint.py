"""Any OpenAI-compatible chat endpoint, as a model that is evaluated and as a judge.

What may pass (no connection, too many requests, a server's fault) is tried again for some minutes; what is wrong with
one request is that request's; what is wrong with the settings ends the run. The key is read from VIGC_API_KEY or
OPENAI_API_KEY, and written nowhere.
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from typing import Any

from vigc.platform.records import ConfigError, RunError

PATIENCE_S = 300.0
TIMEOUT_S = 120.0


class Declined(Exception):
    """The endpoint does not answer this request, and would not if it were asked again."""


@dataclass(frozen=True, slots=True)
class ChatEndpoint:
    url: str  # up to and with /v1
    model: str
    max_tokens: int = 512
    temperature: float = 0.0
    patience_s: float = PATIENCE_S


class Endpoint:
    """A client. Its calls share connections; close it when done."""

    def __init__(self, settings: ChatEndpoint) -> None:
        """Raises ConfigError: the client's package is not installed."""
        try:
            from openai import AsyncOpenAI
        except ImportError as error:
            raise ConfigError("The client is not installed; `pip install 'vigc[evaluate]'` brings it.") from error
        key = os.environ.get("VIGC_API_KEY") or os.environ.get("OPENAI_API_KEY") or "none"
        self._settings = settings
        self._client = AsyncOpenAI(base_url=settings.url, api_key=key, max_retries=0, timeout=TIMEOUT_S)

    async def ask(self, text: str, image: bytes | None = None) -> str:
        """
        Args:
            image: a JPEG, PNG or WebP file.
        Raises:
            Declined: of this request.
            ConfigError: no such model, no such key, no such place.
            RunError: it did not answer for as long as the patience lasts.
        """
        from openai import APIConnectionError, APIStatusError
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

        content: Any = text
        if image is not None:
            address = f"data:{_media_type(image)};base64,{base64.b64encode(image).decode()}"
            content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": text}]
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(_may_pass),
                stop=stop_after_delay(self._settings.patience_s),
                wait=wait_random_exponential(0.2, 20),
                reraise=True,
            ):
                with attempt:
                    answer = await self._client.chat.completions.create(
                        model=self._settings.model,
                        messages=[{"role": "user", "content": content}],
                        max_tokens=self._settings.max_tokens,
                        temperature=self._settings.temperature,
                    )
        except APIStatusError as error:
            if _may_pass(error):
                raise RunError(f"{self._settings.url} kept answering {error.status_code}: {error.message}") from error
            if error.status_code in (401, 403, 404):
                raise ConfigError(
                    f"{self._settings.url} answers {error.status_code} ({error.message}). Check the address, the "
                    "model's name, and the key in VIGC_API_KEY."
                ) from error
            raise Declined(f"{error.status_code}: {error.message}") from error
        except APIConnectionError as error:
            raise RunError(f"{self._settings.url} cannot be reached ({error}). Run the same command again.") from error
        if not answer.choices:
            raise Declined("an answer without a choice")
        return answer.choices[0].message.content or ""

    async def close(self) -> None:
        await self._client.close()


def _may_pass(error: BaseException) -> bool:
    from openai import APIConnectionError, APIStatusError

    if isinstance(error, APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, APIConnectionError)


def _media_type(image: bytes) -> str:
    if image.startswith(b"\xff\xd8"):
        return "image/jpeg"
    return "image/webp" if image.startswith(b"RIFF") else "image/png"
