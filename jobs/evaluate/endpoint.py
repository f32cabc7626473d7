"""An endpoint that is asked one question at a time, as a model that is evaluated and as a judge.

The key is read from VIGC_API_KEY or OPENAI_API_KEY where the question is asked, and written nowhere.
"""

from __future__ import annotations

import os

from vigc.model.completion import RequestFailed
from vigc.model.engines.endpoint.address import clean_url
from vigc.model.engines.endpoint.client import Client, ServerRefuses, ServerSilent
from vigc.model.engines.endpoint.messages import choice_text, image_part, user_turn
from vigc.model.engines.settings import EndpointSettings
from vigc.platform.records import ConfigError, RunError

PATIENCE_S = 300.0
TIMEOUT_S = 120.0


class Declined(Exception):
    """The endpoint does not answer this request, and would not if it were asked again."""


class Endpoint:
    """For one event loop. Its calls share connections; close it when done."""

    def __init__(self, settings: EndpointSettings, *, max_tokens: int, temperature: float = 0.0) -> None:
        key = os.environ.get("VIGC_API_KEY") or os.environ.get("OPENAI_API_KEY")
        self._settings = settings
        self._client = Client(settings, key=key)
        self._options = {"model": settings.model, "max_tokens": max_tokens, "temperature": temperature}

    async def ask(self, text: str, image: bytes | None = None) -> str:
        """
        Args:
            image: a JPEG, PNG or WebP file.
        Raises:
            Declined: of this request.
            ConfigError: no such model, no such key, no such place.
            RunError: it did not answer for as long as the patience lasts.
        """
        turn = {"role": "user", "content": text} if image is None else user_turn(text, [image_part(image)])
        try:
            return choice_text(await self._client.ask({"messages": [turn], **self._options}))
        except RequestFailed as failed:
            raise Declined(failed.message) from failed
        except ServerRefuses as refused:
            raise ConfigError(
                f"{self._settings.url} answers {refused.said}. Check the address, the model's name, and the key in "
                "VIGC_API_KEY."
            ) from refused
        except ServerSilent as silent:
            raise RunError(
                f"{self._settings.url} gave no answer ({silent.said}). Run the same command again."
            ) from silent

    async def close(self) -> None:
        await self._client.close()


def endpoint_settings(url: str, model: str, *, concurrency: int | None = None) -> EndpointSettings:
    """Raises ConfigError: the address is none."""
    return EndpointSettings(clean_url(url), model, concurrency=concurrency, patience_s=PATIENCE_S, timeout_s=TIMEOUT_S)
