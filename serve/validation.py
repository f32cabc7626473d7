"""Finds what the settings name, before anything starts: model, prompt pack, policy, vocabulary. Needs neither torch nor
Ray.
"""

from __future__ import annotations

from pathlib import Path

from vigc.model.conversation.grounding import Grounding
from vigc.model.conversation.policy import Policy, make_policy
from vigc.model.engines.choose import ChosenModel, choose_model
from vigc.model.engines.endpoint.client import ServerSilent
from vigc.model.files.weight_files import find_weights
from vigc.model.weights.identity import is_endpoint
from vigc.platform.pipeline.hardware import Hardware, choose_hardware
from vigc.platform.quality.presence import NameObjects
from vigc.platform.records import ConfigError, RunError
from vigc.platform.vocabulary import load_vocabulary, vocabulary_of
from vigc.serve.settings import ServeSettings


def prepare(settings: ServeSettings) -> tuple[ServeSettings, ChosenModel, Hardware]:
    """The settings with the hardware decided, the model with what it can, and why it is that hardware.

    Raises:
        VigcError: a setting that cannot be used, or an endpoint that does not answer.
    """
    try:
        hardware = (
            choose_hardware("cpu", "auto", 0)
            if is_endpoint(settings.model)
            else choose_hardware(settings.device, settings.dtype, settings.gpus_per_replica)
        )
        settings, chosen = settings.on(hardware), choose_model(settings, on_gpu=hardware.is_gpu)
        _check(settings, chosen)
        settings.engine_settings(chosen)  # whether the environment of vLLM is there
        return settings, chosen.with_abilities(), hardware
    except ServerSilent as error:
        raise RunError(
            f"{settings.model} gives no answer ({error.said}). Start that server, or check the address."
        ) from error


def obstacle(policy: Policy, chosen: ChosenModel) -> str | None:
    """Why the engine cannot follow a policy."""
    if policy.num_beams > 1 and chosen.engine != "reference":
        return f"The policy {policy.name!r} decodes with beams; only the engine `reference` can."
    if policy.grounding is Grounding.BLANK and chosen.endpoint is not None:
        return "A model behind a server is shown no blank image; use grounding `asked`."
    return None


def find_objects(settings: ServeSettings) -> NameObjects | None:
    """What objects are named in.

    Raises:
        ConfigError: no such vocabulary.
    """
    from vigc.model.scenes import CATEGORIES

    if settings.objects == "none":
        return None
    if settings.objects is not None:
        return NameObjects(load_vocabulary(settings.objects))
    # The embedded model knows the words of its scenes and no others.
    vocabulary = vocabulary_of(CATEGORIES) if settings.model is None else load_vocabulary("coco")
    return None if vocabulary is None else NameObjects(vocabulary)


def _check(settings: ServeSettings, chosen: ChosenModel) -> None:
    place = chosen.place
    if place.commit is None and not is_endpoint(place.location):
        find_weights(Path(place.location))
    find_objects(settings)
    grounding = {} if settings.grounding is None else {"grounding": settings.grounding}
    policy = make_policy(settings.policy, **grounding)
    if policy.grounding is Grounding.ASKED and settings.objects == "none":
        raise ConfigError("Grounding asks about objects, and --objects none has no words for any. Name a vocabulary.")
    if (reason := obstacle(policy, chosen)) is not None:
        raise ConfigError(reason)
