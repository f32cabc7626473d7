"""OKVQA: questions that need outside knowledge (arXiv 1906.00067). Parts are its kinds of knowledge.

Scored against `answer`, as its authors do; where the file also has answers as they were typed, `official_raw` is the
same against those.
"""

from __future__ import annotations

from vigc.platform.evaluation.items import Answered, Files, Item, Options, Scored
from vigc.platform.evaluation.vqa_files import read_vqa
from vigc.platform.evaluation.vqa_rules import score_vqa

HEADLINE = "official"


def read(files: Files, options: Options) -> list[Item]:
    return read_vqa(files, "question_type")


def score(answered: Answered, options: Options) -> Scored:
    return score_vqa(answered)
