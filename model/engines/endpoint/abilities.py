"""What a server can do, found out by asking once and never by believing.

Servers that speak the same protocol differ: some ignore `logprobs`, some take `continue_final_message` and others begin
the answer anew without a word. Each ability is tried with a small request, and is there when the answer shows it.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from PIL import Image, ImageDraw

from vigc.model.completion import RequestFailed
from vigc.model.engines.endpoint.client import Client
from vigc.model.engines.endpoint.messages import (
    Speech,
    choice_text,
    continued,
    image_name,
    image_part,
    named_image,
    speech_of,
    usage_of,
    user_turn,
)
from vigc.model.engines.settings import Abilities, EndpointSettings
from vigc.platform.records import ConfigError

_TEXT = "Describe this image in two sentences."
CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}
_PRESENCE = "Is there a tree in this image? Answer with yes or no only."
MIN_PIXELS = 224 * 224  # a server that does not take such an image takes none
YES_OR_NO = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"answer": {"type": "string", "enum": ["yes", "no"]}},
            "required": ["answer"],
            "additionalProperties": False,
        },
    },
}


async def find_model(client: Client, settings: EndpointSettings) -> tuple[str, dict[str, Any]]:
    """The model's name on the server, and what the list says of it.

    Raises:
        ConfigError: the list has several, and none was named; or the named one is not in a list that has names.
        RunError: the server does not answer.
    """
    try:
        listed = (await client.get("/models")).get("data")
    except (ConfigError, RequestFailed):
        if not settings.model:
            raise
        listed = None  # some servers list nothing; whether the name is right shows when it is asked
    models = {str(one["id"]): one for one in listed or () if isinstance(one, dict) and "id" in one}
    if settings.model:
        return settings.model, models.get(settings.model, {})
    itself = {name: about for name, about in models.items() if rereading(about) is not None}
    if len(models) == 1 or len(itself) == 1:  # of the models of `vigc serve`, the one that VIC does not correct already
        ((name, about),) = (itself or models).items()
        return name, about
    if not models:
        raise ConfigError(f"{settings.url} lists no models. Name one with --endpoint-model.")
    raise ConfigError(f"{settings.url} has several models: {', '.join(models)}. Name one with --endpoint-model.")


def rereading(about: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What `vigc serve` says of a model that rereads the image with each continuation; None: it is none."""
    told = about.get("vigc")
    return told if isinstance(told, dict) and told.get("rereads_image") is True else None


async def find_abilities(client: Client, model: str, about: dict[str, Any], settings: EndpointSettings) -> Abilities:
    """Some ten small requests.

    Args:
        about: the model's entry in the server's list.
        settings: with the largest image that is wanted; where it is not taken, smaller ones are tried.
    Raises:
        ConfigError: the model does not read images, or the server does not know it.
        RunError: the server does not answer.
    """
    turn = [user_turn(_TEXT, [image_part(_sample())])]
    try:
        answer = await client.ask({"model": model, "messages": turn, "max_tokens": 24, "temperature": 0})
    except RequestFailed as failed:
        raise ConfigError(
            f"{model} did not answer a question about a small image ({failed}). A model that reads images is needed."
        ) from failed
    first = speech_of(answer)
    again = await _try(client, {"model": model, "messages": turn, "max_tokens": 24, "temperature": 0})
    logprobs, schema, continues, candidates, seed, remembers, adds_start_mark = await asyncio.gather(
        _has_logprobs(client, model),
        _has_schema(client, model),
        _continues(client, model, turn, first),
        _has_candidates(client, model, turn, settings.sampling),
        _has_seed(client, model, turn, settings.sampling),
        _remembers_images(client, model, first),
        _adds_start_mark(client, model),
    )
    length = about.get("max_model_len") or about.get("context_length")
    return Abilities(
        server=str(about.get("owned_by") or ""),
        logprobs=logprobs,
        schema=schema,
        continues=continues,
        candidates=candidates,
        seed=seed,
        usage=usage_of(answer).num_prompt > 0,
        rereads=rereading(about) is not None,
        is_deterministic=again is not None and speech_of(again).text == first.text,
        context_length=length if isinstance(length, int) else None,
        remembers_images=remembers,
        adds_start_mark=adds_start_mark,
        max_pixels=await _largest_image(client, model, settings.max_pixels),
    )


def read_yes_or_no(text: str) -> bool | None:
    """What an answer in the form of YES_OR_NO says; None: it is none."""
    with suppress(ValueError):
        said = json.loads(text)
        if isinstance(said, dict) and said.get("answer") in ("yes", "no"):
            return bool(said["answer"] == "yes")
    return None


@cache
def _sample(side: int = 224) -> bytes:
    """A sun over a meadow; large enough for servers that want some patches."""
    image = Image.new("RGB", (224, 224), (150, 190, 230))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 150, 224, 224), fill=(70, 140, 60))
    draw.ellipse((140, 20, 200, 80), fill=(250, 210, 70))
    file = io.BytesIO()
    image.resize((side, side)).save(file, "PNG")
    return file.getvalue()


async def _try(client: Client, body: dict[str, Any]) -> dict[str, Any] | None:
    """The answer, or None where the server does not take such a request."""
    try:
        return await client.ask(body)
    except RequestFailed:
        return None


async def _has_logprobs(client: Client, model: str) -> bool:
    turn = [user_turn(_PRESENCE, [image_part(_sample())])]
    body = {"model": model, "messages": turn, "max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 20}
    found = await _try(client, body)
    if found is None:
        return False
    speech = speech_of(found)
    return bool(speech.alternatives) and all(math.isfinite(value) for value in speech.alternatives[0].values())


async def _has_schema(client: Client, model: str) -> bool:
    turn = [user_turn(_PRESENCE, [image_part(_sample())])]
    body = {"model": model, "messages": turn, "max_tokens": 16, "temperature": 0, "response_format": YES_OR_NO}
    found = await _try(client, body)
    return found is not None and read_yes_or_no(choice_text(found)) is not None


async def _largest_image(client: Client, model: str, max_pixels: int) -> int:
    """Halves the number of pixels until the server takes the image."""
    while max_pixels > MIN_PIXELS:
        turn = [user_turn(_PRESENCE, [image_part(_sample(math.isqrt(max_pixels)))])]
        if await _try(client, {"model": model, "messages": turn, "max_tokens": 1, "temperature": 0}) is not None:
            return max_pixels
        max_pixels = max(MIN_PIXELS, max_pixels // 2)
    return MIN_PIXELS


async def _continues(client: Client, model: str, turn: list[dict[str, Any]], first: Speech) -> bool:
    """A greedy answer, begun with the first half of itself, goes on with the other half; one that begins anew does not.

    An answer of one repeated word cannot tell, and counts as no.
    """
    words = first.text.split(" ")
    begun = " ".join(words[: max(1, len(words) // 2)]).rstrip()
    rest = first.text[len(begun) :].strip()
    if not begun or not rest or first.text.strip().startswith(rest[:12]):
        return False
    found = await _try(
        client, {"model": model, "messages": continued(turn, begun), "max_tokens": 12, "temperature": 0, **CONTINUE}
    )
    said = choice_text(found).strip() if found is not None else ""
    return bool(said) and (rest.startswith(said[:12]) or said.startswith(rest[:12]))


async def _remembers_images(client: Client, model: str, first: Speech) -> bool:
    """The same is said of an image that is only named, and a name that it does not know is refused: a server that
    ignores both would answer without the image.
    """
    name = image_name(_sample())
    said = []
    for part in (image_part(_sample(), name), named_image(name), named_image(image_name(b""))):
        body = {"model": model, "messages": [user_turn(_TEXT, [part])], "max_tokens": 24, "temperature": 0}
        try:
            said.append(choice_text(await client.ask(body, is_trial=True)))
        except (ConfigError, RequestFailed):
            said.append("")
    return bool(first.text) and said == [first.text, first.text, ""]


async def _adds_start_mark(client: Client, model: str) -> bool:
    """vLLM's server leaves the start mark out where the chat template has none, and transformers, by which models are
    trained and published, puts it there.
    """
    body = {"model": model, "messages": [user_turn(_TEXT)]}
    plain = await client.tokenize({**body, "add_special_tokens": False})
    marked = await client.tokenize({**body, "add_special_tokens": True})
    return plain is not None and marked is not None and marked[1:] == plain and marked[:1] != plain[:1]


async def _has_candidates(client: Client, model: str, turn: list[dict[str, Any]], sampling: Mapping[str, str]) -> bool:
    body = {"model": model, "messages": turn, "max_tokens": 2, "temperature": 1, "n": 2, **sampling}
    found = await _try(client, body)
    return found is not None and len(found["choices"]) == 2


async def _has_seed(client: Client, model: str, turn: list[dict[str, Any]], sampling: Mapping[str, str]) -> bool:
    body = {"model": model, "messages": turn, "max_tokens": 16, "temperature": 1, "top_p": 1, **sampling}
    same, again, other = await asyncio.gather(*(_try(client, {**body, "seed": seed}) for seed in (7, 7, 8)))
    texts = [choice_text(one) if one is not None else None for one in (same, again, other)]
    return texts[0] is not None and texts[0] == texts[1] and texts[0] != texts[2]
