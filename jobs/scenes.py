"""`vigc scenes`: rendered pictures with their annotations, written whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from vigc.platform.records import ConfigError, StoreError
from vigc.platform.storage.files import explained


def make_scenes(
    out: str | Path,
    *,
    num: int,
    seed: int,
    debiased: bool = False,
    min_objects: int = 1,
    max_objects: int = 5,
    size: int = 320,
) -> bool:
    """Writes OUT/images and OUT/annotations.json; does nothing, and says False, when exactly these scenes are there.

    Raises:
        StoreError: OUT holds something else, or cannot be written.
        ConfigError: more objects at least than at most.
    """
    if min_objects > max_objects:
        raise ConfigError(
            f"--min-objects {min_objects} is more than --max-objects {max_objects}. Raise the second, too."
        )
    path = Path(out).absolute()
    wanted: dict[str, Any] = {
        "num": num,
        "seed": seed,
        "debiased": debiased,
        "min_objects": min_objects,
        "max_objects": max_objects,
        "size": size,
    }
    with explained(path):
        if path.exists() and not path.is_dir():
            raise StoreError(f"{path} is a file. Name a folder that does not exist yet.")
        if path.is_dir() and any(path.iterdir()):
            _require_same(path, wanted)
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            from vigc.model.scenes import write_scenes

            write_scenes(unfinished, **wanted)
            unfinished.chmod(0o755)
            unfinished.replace(path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return True


def _require_same(path: Path, wanted: dict[str, Any]) -> None:
    annotations = path / "annotations.json"
    try:
        document = json.loads(annotations.read_bytes())
        info, names = document["info"], [image["file_name"] for image in document["images"]]
        found = {name: info[name] for name in wanted}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path} is not empty and holds no scenes of this program. Name an empty or a new folder."
        ) from error
    if different := [f"{name}: {found[name]} -> {value}" for name, value in wanted.items() if found[name] != value]:
        raise StoreError(f"{path} holds other scenes: {', '.join(different)}. Name another folder, or remove this one.")
    if missing := [name for name in names if not (path / "images" / name).is_file()]:
        raise StoreError(
            f"{path} lacks {len(missing)} of its images, such as {missing[0]}. Remove the folder and run this again."
        )
