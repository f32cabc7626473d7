"""What other installed packages add: entry points in groups of ours.

    [project.entry-points."vigc.sources"]
    flickr = "my_package:open_flickr"

A plug-in is loaded when it is named, and by nothing else. platform/README.md, "Plug-ins", shows one of each group.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from vigc.platform.records import ConfigError

SOURCES, FILTERS, EXPORTS, POLICIES, PROMPTS = (
    f"vigc.{group}" for group in ("sources", "filters", "exports", "policies", "prompts")
)


def installed(group: str) -> list[str]:
    """The names in a group."""
    return sorted({point.name for point in entry_points(group=group)})


def load(group: str, name: str) -> Any:
    """What a package gives under a name; None where no package has it.

    Raises:
        ConfigError: it cannot be imported, or two packages give the same name.
    """
    points = list({(point.value): point for point in entry_points(group=group) if point.name == name}.values())
    if len(points) > 1:
        said = " and ".join(_package(point) for point in points)
        raise ConfigError(f"{said} both bring {name!r} for {group}. Uninstall one of them.")
    if not points:
        return None
    try:
        return points[0].load()
    except Exception as error:  # whatever another package raises when it is imported
        raise ConfigError(
            f"{name!r} of {_package(points[0])} ({group}) cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
