"""What training learns from: readers of published instruction data and of data sets made here.

Each reader is a repeatable stream of `Instruction`; several turns about one image become several instructions. A file
is held in memory while its reader lives, and its records are checked as they come out: an error names the file, the
record and what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from vigc.platform.instructions.aokvqa import AokvqaFile
from vigc.platform.instructions.dataset import DatasetDirectory
from vigc.platform.instructions.fields import ALL, Choice, Origin, read_json
from vigc.platform.instructions.llava import LlavaFile
from vigc.platform.instructions.vigc import VigcFile
from vigc.platform.instructions.vqa import VqaFiles
from vigc.platform.records import ConfigError, InputError, Instruction, Kind

FORMATS = ("auto", "llava", "aokvqa", "okvqa", "vqav2", "vigc", "dataset")


class Instructions(Protocol):
    @property
    def format(self) -> str:
        """One of FORMATS, never "auto"."""
        ...

    def describe(self) -> str:
        """One line for people: the format, where it is, and what of it is left out."""
        ...

    def __iter__(self) -> Iterator[Instruction]: ...


def open_instructions(
    path: str | Path,
    *,
    format: str = "auto",
    images: str | None = None,
    kind: Kind | None = None,
    choices: bool = False,
    choice: Choice = ALL,
) -> Instructions:
    """The instructions in a JSON file, or in a directory that `vigc generate` made.

    Args:
        format: "auto" looks at the content. OKVQA and VQAv2 are two files; either is named, the other found beside it.
        images: the folder or URI that image names lie below; without it, the folder that the file is in. Absolute paths
            and URIs stay as they are.
        kind: of all instructions, instead of what file and record say.
        choice: of generated answers: see `Choice`.
        choices: for A-OKVQA, put the four choices into the question and make the correct one the answer.
    Raises:
        InputError: the place cannot be read, or is in none of these formats.
        ConfigError: an unknown format, or a setting that this format does not have.
        StoreError: a directory that is no data set.
    """
    if format not in FORMATS:
        raise ConfigError(f"There is no instruction format {format!r}. Use one of: {', '.join(FORMATS)}.")
    origin = Origin(Path(path).expanduser(), images, kind, choice)
    if not origin.path.exists():
        raise InputError(f"{path}: no such file or folder. Check the path; relative paths start at {Path.cwd()}.")
    if format == "dataset" or (format == "auto" and origin.path.is_dir()):
        opened: Instructions = DatasetDirectory(origin)
    else:
        content = read_json(origin.path)
        chosen = _detect(origin, content) if format == "auto" else format
        readers: dict[str, Callable[[], Instructions]] = {
            "llava": lambda: LlavaFile(origin, content),
            "aokvqa": lambda: AokvqaFile(origin, content, choices),
            "okvqa": lambda: VqaFiles(origin, content),
            "vqav2": lambda: VqaFiles(origin, content),
            "vigc": lambda: VigcFile(origin, content),
        }
        opened = readers[chosen]()
    if choices and opened.format != "aokvqa":
        raise ConfigError(f"{path}: choices were asked for, which only A-OKVQA has; this is {opened.format}.")
    return opened


def _detect(origin: Origin, content: Any) -> str:
    if isinstance(content, dict) and VqaFiles.fits(content):
        return "okvqa"
    if isinstance(content, list) and content and isinstance(content[0], dict):
        keys = content[0].keys()
        if "conversations" in keys:
            return "llava"
        if "question" in keys and keys & {"direct_answers", "choices"}:
            return "aokvqa"
        if {"question", "answer"} <= keys:
            return "vigc"
        raise InputError(
            f"{origin.path}: records with {', '.join(map(repr, keys))} are in none of the formats "
            f"{', '.join(FORMATS[1:])}. Convert the file to one of them."
        )
    what = "an empty list" if content == [] else f"a {type(content).__name__}"
    raise InputError(f"{origin.path}: holds {what}, not a list of records. Is it the right file?")
