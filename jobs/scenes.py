"""`vigc scenes`: rendered images with their annotations, written whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import typer

from vigc.jobs.settings.command import Verb
from vigc.jobs.settings.shared import PrintsJson
from vigc.jobs.terminal import print_json
from vigc.platform.records import ConfigError, StoreError
from vigc.platform.settings import flag


class ScenesConfig(PrintsJson):
    """The settings of `vigc scenes`."""

    out: str = flag("A folder that does not exist yet, or is empty.", positional=True, metavar="OUT")
    num: int = flag("How many scenes to render.", 200, ge=1, le=1_000_000)
    seed: int = flag("The seed; the same one gives the same scenes.", 7, ge=0)
    debiased: bool = flag("Place objects without their usual company.", False)
    min_objects: int = flag("The fewest objects in a scene.", 1, ge=1, le=12)
    max_objects: int = flag("The most objects in a scene.", 5, ge=1, le=12)


def scenes(config: ScenesConfig) -> None:
    """Render images with exact annotations, to try things on: OUT/images and OUT/annotations.json (COCO)."""
    wanted = config.model_dump(exclude={"out", "json_"})
    written = make_scenes(config.out, **wanted)
    if config.json_:
        about = {name: wanted[name] for name in ("num", "seed", "debiased")}
        print_json({"out": str(Path(config.out).absolute()), **about, "written": written})
        return
    place, num = config.out, config.num
    typer.echo(f"{num} scenes in {place}" if written else f"{place} already holds exactly these {num} scenes.")
    if written:
        typer.echo(f"try  vigc generate {place} --out data")


SCENES = Verb(ScenesConfig, scenes, ("vigc scenes scenes", "vigc scenes debiased --num 1000 --seed 8 --debiased"))


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
    from vigc.platform.storage.files import explained

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
