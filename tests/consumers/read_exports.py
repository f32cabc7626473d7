"""Reads every export below a folder with the library that it is for, and prints what that saw as JSON.

A process of its own: among the tests, `datasets` is a module of helpers.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import webdataset
from datasets import load_dataset
from trl.data_utils import is_conversational, prepare_multimodal_messages


def by_datasets(kind: str, cache: Path, **where: str) -> dict[str, Any]:
    loaded = load_dataset(kind, **where, split="train", cache_dir=str(cache))
    first = {name: value for name, value in loaded[0].items() if name != "images" or isinstance(value[0], str)}
    pictures = [list(one.size) for one in loaded[0].get("images", ()) if not isinstance(one, str)]
    return {"num": len(loaded), "columns": loaded.column_names, "first": first, "pictures": pictures}


def by_webdataset(shards: Path) -> dict[str, Any]:
    names = sorted(str(path) for path in shards.glob("*.tar"))
    samples = list(webdataset.WebDataset(names, shardshuffle=False).decode("pil"))
    return {
        "num_shards": len(names),
        "keys": [sample["__key__"] for sample in samples],
        "first": samples[0]["json"],
        "pixels": samples[0]["png"].tobytes().hex(),
    }


def by_trl(folder: Path, cache: Path) -> dict[str, Any]:
    """What trl's collator for preference data with images makes of a pair before it calls the model's processor."""
    loaded = load_dataset(str(folder), split="train", cache_dir=str(cache))
    one = loaded[0]
    prompt = prepare_multimodal_messages(one["prompt"], images=one["images"])
    answers = {name: prepare_multimodal_messages(one[name]) for name in ("chosen", "rejected")}
    return {
        "num": len(loaded),
        "is_conversational": is_conversational(one),
        "picture": list(prompt[0]["content"][0]["image"].size),
        "question": prompt[0]["content"][1]["text"],
        **{name: [message["role"], message["content"][0]["text"]] for name, (message,) in answers.items()},
        "because": one["because"],
        "objects_absent": one["objects_absent"],
    }


def main(folder: Path) -> None:
    cache = folder / "cache"
    readers: dict[str, Callable[[], dict[str, Any]]] = {
        "llava.json": lambda: by_datasets("json", cache, data_files=str(folder / "llava.json")),
        "sharegpt.json": lambda: by_datasets("json", cache, data_files=str(folder / "sharegpt.json")),
        "openai.jsonl": lambda: by_datasets("json", cache, data_files=str(folder / "openai.jsonl")),
        "parquet.parquet": lambda: by_datasets("parquet", cache, data_files=str(folder / "parquet.parquet")),
        "huggingface": lambda: by_datasets(str(folder / "huggingface"), cache),
        "huggingface-joined": lambda: by_datasets(str(folder / "huggingface-joined"), cache),
        "webdataset": lambda: by_webdataset(folder / "webdataset"),
        "preference": lambda: by_trl(folder / "preference", cache),
        "preference-sentence": lambda: by_trl(folder / "preference-sentence", cache),
    }
    print(json.dumps({name: read() for name, read in readers.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
