"""An engine whose model is behind `vigc serve`: one with a Q-Former, which rereads the image at each continuation.

So each step of VIC is a request of its own, with the answer so far, and nothing is served from what was said before.
What such a model depends on goes over whole: the square of pixels (as PNG, which loses nothing), the seed, the words
that must not be said, what the Q-Former reads and where a step ends. The answers are those of the same engine here.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from PIL import Image

from vigc.model.completion import Completion, Request
from vigc.model.engines.endpoint.abilities import CONTINUE
from vigc.model.engines.endpoint.engine import EndpointEngine, EndpointImage, seen
from vigc.model.engines.endpoint.messages import continued, speech_of, user_turn
from vigc.model.engines.settings import EndpointSettings
from vigc.platform.records import ConfigError, ImageForm, Stop


class RereadingEngine(EndpointEngine):
    """See the module."""

    def __init__(self, settings: EndpointSettings, num_slots: int | None = None) -> None:
        super().__init__(settings, num_slots)
        if settings.image_side is None:
            raise ConfigError("A server that rereads images says of which size it wants them.")
        self._side = settings.image_side
        self.image_form = ImageForm(side=self._side)

    @asynccontextmanager
    async def image(self, data: bytes) -> AsyncIterator[EndpointImage]:
        """
        Args:
            data: uint8 (side, side, 3), row by row.
        """
        file = io.BytesIO()
        Image.frombytes("RGB", (self._side, self._side), data).save(file, "PNG", compress_level=1)
        async with super().image(file.getvalue()) as handle:
            yield handle

    async def candidates(self, image: Any, request: Request) -> list[Completion]:
        self.check(request)
        handle = seen(image)
        self._num_under_way += request.n
        try:
            answer = await self._client.ask(self._asked(handle, request))
        finally:
            self._num_under_way -= request.n
        handle.charge(answer)
        return [
            Completion(speech_of(answer, index).text, Stop(told["stop"]), told["num_tokens"], told["mean_logprob"])
            for index, told in enumerate(answer["vigc"]["choices"])
        ]

    def check(self, request: Request) -> None:
        super().check(replace(request, repetition_penalty=1.0, length_penalty=1.0))  # which this server has

    def _asked(self, image: EndpointImage, request: Request) -> dict[str, Any]:
        turns = [user_turn(request.prompt, [image.part])]
        begun = {"messages": continued(turns, request.prefix), **CONTINUE} if request.prefix else {"messages": turns}
        return {
            "model": self._model,
            **begun,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
            "n": request.n,
            "vigc": {
                "qformer_text": request.qformer_text,
                "until": request.until,
                "stop_at": request.stop_at,
                "suppress": request.suppress,
                "min_tokens": request.min_tokens,
                "repetition_penalty": request.repetition_penalty,
                "length_penalty": request.length_penalty,
            },
        }
