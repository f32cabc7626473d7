"""VIGC on Ray: images in, corrected instruction data out, with proof.

    import vigc

    data = vigc.generate("photos", out="data", model="http://localhost:8000/v1")
    data.filter(max_absent=0).export("llava")

Names are loaded when they are used, so importing the package costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vigc.jobs.api import Dataset, LoadedEngine, converse, generate, load_engine
    from vigc.jobs.api import open_dataset as open  # noqa: A004
    from vigc.platform.records import VigcError

__version__ = "0.1.0"
__all__ = ["Dataset", "LoadedEngine", "VigcError", "converse", "generate", "load_engine", "open"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vigc' has no attribute {name!r}; it has {', '.join(__all__)}")
    if name == "VigcError":
        from vigc.platform.records import VigcError

        return VigcError
    from vigc.jobs import api

    return api.open_dataset if name == "open" else getattr(api, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
