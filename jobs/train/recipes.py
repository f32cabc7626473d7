"""A recipe's stages as a command asks for them."""

from __future__ import annotations

from collections.abc import Mapping

from vigc.jobs.settings.options import Value, changed
from vigc.model.training.recipe import PRESETS, Recipe
from vigc.platform.records import ConfigError


def make_recipes(name: str, options: Mapping[str, Value]) -> tuple[Recipe, ...]:
    """A preset's stages with values changed, in all of them, or where an option begins with a stage's name in that one.

    Raises:
        ConfigError: no such preset, no such option, or a value of another type.
    """
    if name not in PRESETS:
        raise ConfigError(f"There is no recipe {name!r}; use {', '.join(PRESETS)}.")
    stages = PRESETS[name]()
    named = {stage.stage for stage in stages if stage.stage}

    def of(stage: Recipe) -> dict[str, Value]:
        own = {path: value for path, value in options.items() if path.partition(".")[0] not in named - {stage.stage}}
        return {path.removeprefix(f"{stage.stage}.") if stage.stage else path: own[path] for path in own}

    return tuple(changed(stage, of(stage)) for stage in stages)
