"""`vigc validate`: a training file, from here or from elsewhere, checked row by row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from vigc.jobs.dataset.config import ValidateConfig
from vigc.jobs.dataset.filter import read_evaluation
from vigc.platform.exports.validate import NOTES, EvaluationImages, Rule, ValidateOptions, Validation, validate
from vigc.platform.exports.validate.rules import MEANINGS
from vigc.platform.records import ModelError
from vigc.platform.storage import open_file

NUM_ROWS_SHOWN = 10


def run_validate(config: ValidateConfig, on_progress: Callable[[int], None] | None = None) -> Validation:
    """Reads the whole file.

    Raises:
        VigcError: the file, or what it is compared with, cannot be used.
    """
    checks = ValidateOptions(
        folder=config.images,
        num_open=config.num_open,
        count_tokens=None if config.tokenizer is None else token_counter(config.tokenizer),
        max_tokens=config.max_tokens,
        tokens_per_image=config.tokens_per_image,
        evaluation=_evaluation(config.exclude, config.exclude_like),
    )
    with _lines(config.out) as lines:

        def write(row: int, rule: Rule, words: str) -> None:
            if lines is not None:
                lines.write(json.dumps({"row": row, "found": rule.value, "words": words}, ensure_ascii=False) + "\n")

        return validate(config.file, checks, write, on_progress)


def _evaluation(exclude: str | None, exclude_like: str | None) -> EvaluationImages | None:
    if exclude is None and exclude_like is None:
        return None
    return EvaluationImages(exclude, None if exclude_like is None else read_evaluation(exclude_like).hashes)


@contextmanager
def _lines(place: str | None) -> Iterator[IO[str] | None]:
    if place is None:
        yield None
        return
    folder, name = open_file(place)
    with folder.new_text(name) as file:
        yield file


def token_counter(tokenizer: str) -> Callable[[list[str]], list[int]]:
    """Counts tokens without special ones. Raises ModelError where there is no such tokenizer."""
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"{tokenizer}: holds no tokenizer ({reason}). Name a folder with tokenizer.json.") from error

    def count(texts: list[str]) -> list[int]:
        return [len(ids) for ids in loaded(texts, add_special_tokens=False)["input_ids"]]

    return count


def in_words(found: Validation) -> Iterator[str]:
    """One line for each rule, faults first, and the verdict at the end."""
    for rule, one in sorted(found.found.items(), key=lambda item: (item[0] in NOTES, -item[1].num)):
        rows = ", ".join(map(str, one.rows[:NUM_ROWS_SHOWN])) + (", …" if one.num > NUM_ROWS_SHOWN else "")
        mark = "note" if rule in NOTES else "fault"
        yield f"{mark:<6} {rule.value:<17} {one.num:>7}  {MEANINGS[rule]}; rows {rows}"
        yield f"{'':<33} e.g. row {one.rows[0]}: {one.example}"
    if found.tokens is not None:
        lengths = ", ".join(f"{name} {value}" for name, value in found.tokens.items())
        yield f"tokens of a row, special ones not counted: {lengths}"
    opened = f", {found.num_opened} of them opened" if found.num_opened else ""
    counts = f"{found.num_rows} rows, {found.num_turns} turns, {found.num_images} images{opened}"
    if found.is_ok:
        yield f"ok: {counts}, no fault."
    else:
        num = sum(one.num for rule, one in found.found.items() if rule not in NOTES)
        yield f"not ok: {counts}, {num} faults. Rows are counted from 0."
