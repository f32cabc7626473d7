"""A model that is loaded once and asked about one image after the other, without Ray."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from vigc.model.conversation.grounding import Grounding
from vigc.model.conversation.image import ConversationSettings, hold_conversations
from vigc.model.conversation.policy import make_policy
from vigc.model.cores import num_cores
from vigc.model.engines.choose import ChosenModel, choose_model
from vigc.model.engines.start import start_engine
from vigc.platform.images.decode import MAX_PIXELS, decode_bytes
from vigc.platform.images.encode import encode_bytes
from vigc.platform.pipeline.hardware import choose_hardware, num_gpus
from vigc.platform.quality.mentions import ObjectFinder
from vigc.platform.records import ConfigError, Conversation, InputError, Kind
from vigc.platform.vocabulary import load_vocabulary

if TYPE_CHECKING:
    from PIL.Image import Image

    from vigc.model.engines.interface import Engine

T = TypeVar("T")

KINDS = (Kind.CONVERSATION, Kind.DETAIL, Kind.REASONING)
END_S = 10.0


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """What is said of the model and of what runs it, as the flags of `vigc generate` with the same names."""

    model: str | None = None  # a folder, a hub id or an endpoint; None: the embedded model
    endpoint_model: str | None = None
    api_key_env: str | None = None
    prompts: str | None = None
    engine: str = "auto"
    engine_args: str | None = None
    engine_memory: float | None = None
    slots: int | None = None
    concurrency: int | None = None
    patience_s: float = 60.0
    vllm_python: str | None = None


class LoadedEngine:
    """A loaded model with its prompts. Close it when done, or use it in a `with` block."""

    def __init__(self, engine: Engine, chosen: ChosenModel) -> None:
        self._engine, self._chosen = engine, chosen
        self._loop = asyncio.new_event_loop()  # of its own, since notebooks have one that runs already
        self._thread = threading.Thread(target=self._loop.run_forever, name="vigc-engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The model's."""
        return self._chosen.place.name

    def close(self) -> None:
        """Ends the engine and frees its memory."""
        if self._loop.is_closed():
            return
        aclose = getattr(self._engine, "aclose", None)
        self._run(aclose()) if aclose is not None else self._engine.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(END_S)
        self._loop.close()

    def hold(self, image_id: str, data: bytes, settings: ConversationSettings) -> list[Conversation]:
        """The conversations about an image file."""
        return self._run(hold_conversations(self._engine, image_id, self._made_for_engine(data, image_id), settings))

    def settings(self, policy: str, kinds: Sequence[Kind], seed: int, **changes: Any) -> ConversationSettings:
        """Which conversations are held. Raises ConfigError for a policy or a kind that there is not."""
        for kind in kinds:
            self._chosen.pack.kind(kind)
        return ConversationSettings(self._chosen.pack, make_policy(policy, **changes), tuple(kinds), seed)

    def _made_for_engine(self, data: bytes, name: str) -> bytes:
        form = self._engine.image_form
        if form.side:
            made = decode_bytes(data, form.side, MAX_PIXELS)
        else:
            made = encode_bytes(data, int((form.max_pixels or 0) ** 0.5), MAX_PIXELS)
        if made.pixels is None:
            raise InputError(f"{name}: the image cannot be used: {made.error_message}.")
        return made.pixels

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return task.result()
        except BaseException:
            task.cancel()
            raise


def load_engine(
    model: str | os.PathLike[str] | None = None, *, device: str = "auto", dtype: str = "auto", **more: Any
) -> LoadedEngine:
    """Loads a model in this process, or connects to an endpoint.

    Args:
        model: a folder, a hub id or the address of an endpoint; None: the embedded model.
        device: auto, cpu or cuda.
        dtype: auto, float32, bfloat16 or float16.
        more: the fields of `ModelChoice`, such as `endpoint_model` or `prompts`.
    Raises:
        VigcError: no such model, or one that cannot be used here.
    """
    try:
        choice = ModelChoice(model=None if model is None else os.fspath(model), **more)
    except TypeError as error:
        known = ", ".join(ModelChoice.__dataclass_fields__)
        raise ConfigError(f"load_engine: {error}. It takes {known}, device and dtype.") from error
    hardware = choose_hardware(device, dtype, float(num_gpus() > 0))
    chosen = choose_model(choice, on_gpu=hardware.is_gpu).with_abilities()
    settings = chosen.engine_settings(
        choice,
        device=hardware.device,
        dtype=hardware.dtype,
        num_gpus=1 if hardware.is_gpu else 0,
        num_threads=num_cores(),
    )
    return LoadedEngine(start_engine(settings), chosen)


def converse(
    engine: LoadedEngine,
    image: str | os.PathLike[str] | bytes | Image,
    *,
    kinds: Sequence[Kind | str] = KINDS,
    question: str | None = None,
    policy: str = "paper",
    seed: int = 0,
    image_id: str | None = None,
    objects: str | None = None,
    **options: Any,
) -> list[Conversation]:
    """What the model says about one image: VIG asks and answers, VIC answers again.

    Args:
        image: a file, its bytes, or an image of Pillow.
        kinds: one conversation of each.
        question: answered by VIC, once for each kind; None: VIG asks.
        policy: paper, verified, lean or shipped.
        seed: of words that are sampled.
        image_id: what sampling depends on beside the seed; None: the file's name.
        objects: coco, objects365 or a vocabulary file: the objects that a policy asks about, such as verified.
        options: of the policy, such as `max_steps=6` or `temperature=0.7`.
    Raises:
        VigcError: the image cannot be read, or there is no such kind, policy or option.
    """
    name = image_id or (Path(image).name if isinstance(image, str | os.PathLike) else "image")
    if unknown := [kind for kind in kinds if kind not in tuple(Kind)]:
        raise ConfigError(f"There is no kind {unknown[0]!r}. The kinds are {', '.join(Kind)}.")
    settings = engine.settings(policy, [Kind(kind) for kind in kinds], seed, **options)
    if settings.policy.grounding is Grounding.ASKED and objects is None:
        raise ConfigError(f"The policy {policy!r} asks about objects. Say which, such as objects='coco'.")
    if objects is not None:
        settings = replace(settings, find_objects=ObjectFinder(load_vocabulary(objects)).named)
    return engine.hold(name, _bytes_of(image), replace(settings, question=question))


def _bytes_of(image: str | os.PathLike[str] | bytes | Image) -> bytes:
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str | os.PathLike):
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "PNG")
        return buffer.getvalue()
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise InputError(f"{image}: the image cannot be read ({error.strerror}).") from error
