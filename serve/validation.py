"""Checks that what the settings name is there: model, prompt pack, policy, vocabulary. Needs neither torch nor Ray."""

from __future__ import annotations

from pathlib import Path

from vigc.model.conversation.grounding import Grounding
from vigc.model.conversation.policy import make_policy
from vigc.model.files.weight_files import find_weights
from vigc.model.prompts import load_pack
from vigc.model.weights.identity import find_model
from vigc.platform.quality.presence import NameObjects
from vigc.platform.records import ConfigError
from vigc.platform.vocabulary import load_vocabulary, vocabulary_of
from vigc.serve.settings import ServeSettings


def check(settings: ServeSettings) -> None:
    """
    Raises:
        VigcError: a setting that cannot be used.
    """
    place = find_model(settings.model)
    if place.commit is None:
        find_weights(Path(place.location))
    load_pack(settings.prompts)
    find_objects(settings)
    policy = make_policy(settings.policy)
    if Grounding.ASKED in (policy.grounding, settings.grounding) and settings.objects == "none":
        raise ConfigError("Grounding asks about objects, and --objects none has no words for any. Name a vocabulary.")
    if policy.num_beams > 1 and settings.engine != "reference":
        raise ConfigError(f"The policy {settings.policy!r} decodes with beams; only the engine `reference` can.")


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
