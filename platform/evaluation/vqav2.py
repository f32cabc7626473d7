"""VQAv2: open questions about COCO images (arXiv 1612.00837). Parts are its types of answer."""

from __future__ import annotations

from vigc.platform.evaluation.items import Answered, Files, Item, Options, Scored
from vigc.platform.evaluation.vqa_files import read_vqa
from vigc.platform.evaluation.vqa_rules import score_vqa

HEADLINE = "official"


def read(files: Files, options: Options) -> list[Item]:
    return read_vqa(files, "answer_type")


def score(answered: Answered, options: Options) -> Scored:
    return score_vqa(answered)
