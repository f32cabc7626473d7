"""What a reader of a data set must be told before anything else: that the model knew nothing of these images.

The embedded model was trained on rendered scenes and shows how everything works. Of a photograph it speaks as fluently,
and nothing that it says is so. Where it is not known that images are scenes, they count as others.
"""

from __future__ import annotations

from collections.abc import Iterable

from vigc.platform.dataset.passes import Pass

EMBEDDED = "embedded"
_BEHIND_A_SERVICE = f"{EMBEDDED}-itself"  # as `vigc serve` calls it where it is asked without correction
_REAL = (
    "Name a real model with --model: a hub id such as Qwen/Qwen3-VL-8B-Instruct, a model folder, or the address of a "
    "server."
)
TEXT = (
    "These texts are fluent and wrong. The embedded model makes them, which knows rendered scenes only, and these "
    f"images are not known to be any. {_REAL}"
)
OF_A_SERVICE = (
    "The embedded model answers here. It knows rendered scenes only, and what it says of any other image is fluent and "
    f"wrong. {_REAL}"
)


def is_embedded(model: object) -> bool:
    """Whether this is the name of the embedded model, here or behind a service."""
    return model in (EMBEDDED, _BEHIND_A_SERVICE)


def caution(passes: Iterable[Pass]) -> str | None:
    """What must be said of the passes together; None: nothing."""
    found = list(passes)
    wrong = [one.number for one in found if _is_wrong(one)]
    if not wrong:
        return None
    return TEXT if len(wrong) == len(found) else f"Pass {', '.join(wrong)}: {TEXT}"


def _is_wrong(one: Pass) -> bool:
    model = one.request.get("model")
    name = model.get("name") if isinstance(model, dict) else None
    return is_embedded(name) and not one.are_scenes
