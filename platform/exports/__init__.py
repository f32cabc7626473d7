"""Training files made from a data set: one module per format.

Only kept conversations of images that could be read are exported. What is written appears under its name when it is
complete, not before; a format is one file, or a folder with a marker in it that is written last.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vigc.platform import plugins
from vigc.platform.dataset.store import Store
from vigc.platform.exports import huggingface, llava, openai, parquet, preference, sharegpt, webdataset
from vigc.platform.exports.card import card
from vigc.platform.exports.examples import Example, alone, joined
from vigc.platform.exports.images import ImageFile, with_images
from vigc.platform.exports.json_files import write_lines, write_list
from vigc.platform.exports.preference import Per, with_pairs
from vigc.platform.records import ConfigError
from vigc.platform.storage import NewFolder, open_file

MARKER = "export.json"
PROGRESS_EVERY = 500  # examples

__all__ = [
    "FORMATS",
    "MARKER",
    "ExportRun",
    "Exported",
    "FileFormat",
    "FolderFormat",
    "Options",
    "Per",
    "export",
    "find_format",
]


@dataclass(frozen=True, slots=True)
class Options:
    """Choices that only some formats have; see `Format.options`."""

    multi_turn: bool = False  # all kinds of an image in one conversation
    embed: bool = False  # the images themselves instead of their addresses
    per: Per = Per.ANSWER  # what preference pairs compare
    shard_bytes: int = webdataset.SHARD_BYTES


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export came to."""

    num_examples: int
    left_out: dict[str, int]  # reason -> kept conversations that are in no example


@dataclass(slots=True)
class ExportRun:
    """One export under way."""

    store: Store
    options: Options
    on_progress: Callable[[int], None] | None
    left_out: Counter[str] = field(default_factory=Counter)

    def examples(self) -> Iterator[Example]:
        for num, example in enumerate((joined if self.options.multi_turn else alone)(self.store, self.left_out)):
            if self.on_progress is not None and num % PROGRESS_EVERY == 0:
                self.on_progress(num)
            yield example

    def with_images(self) -> Iterator[tuple[Example, ImageFile]]:
        return with_images(self.examples(), self.left_out)


@dataclass(frozen=True, slots=True)
class FileFormat:
    """Written to a path that becomes a file."""

    suffix: str
    write: Callable[[ExportRun, Path], int]  # returns the number of examples
    options: frozenset[str] = frozenset()  # the names in Options that it understands


@dataclass(frozen=True, slots=True)
class FolderFormat:
    """Written to a folder, file by file."""

    write: Callable[[ExportRun, NewFolder], int]
    options: frozenset[str] = frozenset()
    suffix: str = ""


def _llava(run: ExportRun, path: Path) -> int:
    with open(path, "w", encoding="utf-8") as file:
        return write_list(map(llava.record, run.examples()), file)


def _sharegpt(run: ExportRun, path: Path) -> int:
    with open(path, "w", encoding="utf-8") as file:
        return write_list(map(sharegpt.record, run.examples()), file)


def _openai(run: ExportRun, path: Path) -> int:
    with open(path, "w", encoding="utf-8") as file:
        if not run.options.embed:
            return write_lines(map(openai.record, run.examples()), file)
        return write_lines(
            (openai.record(one, openai.data_url(image_file)) for one, image_file in run.with_images()), file
        )


def _parquet(run: ExportRun, path: Path) -> int:
    return parquet.write(run.examples(), path)


def _webdataset(run: ExportRun, folder: NewFolder) -> int:
    return webdataset.write(run.with_images(), folder, run.options.shard_bytes)


def _huggingface(run: ExportRun, folder: NewFolder) -> int:
    options = run.options
    num = huggingface.write(run.with_images(), folder, multi_turn=options.multi_turn, shard_bytes=options.shard_bytes)
    _write_card(run, folder, huggingface.JOINED if options.multi_turn else huggingface.ALONE, num, pairs=False)
    return num


def _preference(run: ExportRun, folder: NewFolder) -> int:
    examples = with_pairs(run.examples(), run.options.per, run.left_out)
    pairs = with_images(examples, run.left_out)
    num = preference.write(pairs, folder, per=run.options.per, shard_bytes=run.options.shard_bytes)
    _write_card(run, folder, preference.COLUMNS, num, pairs=True)
    return num


def _write_card(run: ExportRun, folder: NewFolder, columns: huggingface.Columns, num: int, *, pairs: bool) -> None:
    with folder.file("README.md") as path:
        path.write_text(card(run.store, columns, num, run.left_out, pairs=pairs), encoding="utf-8")


_MULTI, _SHARDS = "multi_turn", "shard_bytes"

FORMATS: dict[str, FileFormat | FolderFormat] = {
    "llava": FileFormat(".json", _llava, frozenset({_MULTI})),
    "sharegpt": FileFormat(".json", _sharegpt, frozenset({_MULTI})),
    "openai": FileFormat(".jsonl", _openai, frozenset({_MULTI, "embed"})),
    "parquet": FileFormat(".parquet", _parquet),
    "webdataset": FolderFormat(_webdataset, frozenset({_MULTI, _SHARDS})),
    "huggingface": FolderFormat(_huggingface, frozenset({_MULTI, _SHARDS})),
    "preference": FolderFormat(_preference, frozenset({"per", _SHARDS})),
}


def find_format(name: str) -> FileFormat | FolderFormat:
    """One of FORMATS, or a plug-in's. Raises ConfigError where there is none of this name."""
    if name in FORMATS:
        return FORMATS[name]
    found = plugins.load(plugins.EXPORTS, name)
    if found is None:
        known = ", ".join([*FORMATS, *plugins.installed(plugins.EXPORTS)])
        raise ConfigError(f"There is no export format {name!r}. Use one of: {known}.")
    if not isinstance(found, FileFormat | FolderFormat):
        raise ConfigError(f"The plug-in for the format {name!r} is neither a FileFormat nor a FolderFormat.")
    return found


def export(
    store: Store,
    format: str,
    out: str | Path,
    options: Options | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Exported:
    """Writes the file or folder `out`, a path or an address.

    A file takes the place of whatever was there; a folder only that of an earlier export.

    Raises:
        ConfigError: there is no such format, or it does not have an option.
        StoreError: the data set cannot be read, or `out` cannot be written.
    """
    chosen, options = find_format(format), options or Options()
    for name in Options.__dataclass_fields__:
        if getattr(options, name) != getattr(Options(), name) and name not in chosen.options:
            able = [other for other, one in FORMATS.items() if name in one.options]
            raise ConfigError(f"{name} does not go with the format {format}, but with {', '.join(able)}.")
    store.existing_passes()
    run = ExportRun(store, options, on_progress)
    folder, name = open_file(out)
    if isinstance(chosen, FileFormat):
        with folder.new_file(name) as path:
            num = chosen.write(run, path)
    else:
        with folder.new_folder(name, MARKER) as new:
            num = chosen.write(run, new)
            exported = {"format": format, "num_examples": num, "left_out": dict(run.left_out), "from": str(store)}
            with new.file(MARKER) as path:
                path.write_text(json.dumps(exported, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Exported(num, dict(run.left_out))
