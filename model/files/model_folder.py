"""What the folder of an InstructBLIP model must hold, looked for before anything starts. No torch, no transformers."""

from __future__ import annotations

import json
from pathlib import Path

from vigc.model.files.weight_files import find_weights
from vigc.platform.records import ModelError

# Each part, and the files any one of which is enough for it.
_PARTS = (
    ("the language model's tokenizer", ("tokenizer.json", "tokenizer.model")),
    ("the Q-Former's tokenizer", ("qformer_tokenizer/tokenizer.json", "qformer_tokenizer/vocab.txt")),
    ("the image processor", ("preprocessor_config.json", "processor_config.json")),
)
_MOST_SHOWN = 3
_POINTER = b"version https://git-lfs"  # what git leaves of a large file that it did not fetch


def require_parts(folder: Path) -> None:
    """
    Raises:
        ModelError: a part is missing, or a file is not what its name says.
    """
    find_weights(folder)
    lacking = [f"{part} ({' or '.join(files)})" for part, files in _PARTS if not _any(folder, files)]
    absent = _shards_not_there(folder)
    more = ", …" if len(absent) > _MOST_SHOWN else ""
    lacking += [f"{len(absent)} files of weights ({', '.join(absent[:_MOST_SHOWN])}{more})"] if absent else []
    if lacking:
        raise ModelError(f"{folder}: the model lacks {'; '.join(lacking)}. Copy the whole folder of the saved model.")
    for file in sorted(folder.glob("*")):
        if file.is_file() and _begins_as_pointer(file):
            raise ModelError(
                f"{file}: this is git's note about a large file, not the file. `git lfs pull` in {folder} fetches it."
            )
    if not (folder / "tokenizer.json").is_file():
        _require_sentencepiece(folder / "tokenizer.model")


def _any(folder: Path, files: tuple[str, ...]) -> bool:
    return any((folder / file).is_file() for file in files)


def _shards_not_there(folder: Path) -> list[str]:
    """Files that an index of weights names. Where there are weights in one file, an index is not read."""
    names: set[str] = set()
    for index in folder.glob("*.safetensors.index.json"):
        if (folder / "model.safetensors").is_file():
            continue
        try:
            names |= set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{index}: not an index of weights ({error}). Get the file again.") from error
    return sorted(name for name in names if not (folder / name).is_file())


def _begins_as_pointer(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(len(_POINTER)) == _POINTER
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror}).") from error


def _require_sentencepiece(file: Path) -> None:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise ModelError(
            f"{file}: only the package `sentencepiece` reads it, which is missing. `pip install sentencepiece`."
        ) from error
    try:
        SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError) as error:
        raise ModelError(f"{file}: not a SentencePiece model. Get the file again.") from error
