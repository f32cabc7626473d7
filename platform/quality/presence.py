"""Which objects are in an image, and which of those that a conversation names are not.

Truth is what is annotated together with what the image's captions name, because boxes are incomplete: `LIMIT` says so
wherever metrics are shown. A crowd box and a box of a picture or toy of the thing count like any other.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace

import pyarrow as pa

from vigc.platform.quality.mentions import ObjectFinder
from vigc.platform.records import Conversation, ImageRecord, Row, Sentence
from vigc.platform.schema import ROW, row_from_dict, to_dict
from vigc.platform.vocabulary import Vocabulary

LIMIT = (
    '"Absent" means that neither a box nor a caption names the object. Boxes are incomplete: what is absent by them '
    "may be in the image without a label, so the true rates of hallucination may be lower."
)


def present_categories(finder: ObjectFinder, record: ImageRecord | Row) -> frozenset[str] | None:
    """The categories of the finder's vocabulary that are known to be there; None where the image has no annotations.

    Captions alone are no annotations: they name what their writer found worth it.
    """
    if record.objects is None:
        return None
    annotated = {finder.vocabulary.category(name) for name in {box.category for box in record.objects}}
    captioned = (finder.categories(caption) for caption in record.captions or ())
    return frozenset(category for category in annotated if category).union(*captioned)


def with_objects(conversation: Conversation, record: ImageRecord | Row, finder: ObjectFinder) -> Conversation:
    """The conversation with `objects_named` and `objects_absent` of each sentence of both answers.

    Both hold every mention in the order of the text; `objects_absent` is None where the image has no annotations.
    """
    present = present_categories(finder, record)
    return _with_objects(conversation, finder, None if present is None else finder.vocabulary.true_of(present))


@dataclass(frozen=True)
class NameObjects:
    """The same for whole rows, which also say what is present: `pipeline.run` does it before it commits them."""

    vocabulary: Vocabulary

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Rows of the schema ROW, with their objects named."""
        return pa.Table.from_pylist([to_dict(self.of_row(row_from_dict(row))) for row in rows.to_pylist()], ROW)

    def of_row(self, row: Row) -> Row:
        return _named(row, _finder_of(self.vocabulary))

    def of_conversation(self, conversation: Conversation, record: ImageRecord | Row) -> Conversation:
        return with_objects(conversation, record, _finder_of(self.vocabulary))

    def of_sentences(self, sentences: list[Sentence], record: ImageRecord | Row) -> list[Sentence]:
        """The same for a part of an answer."""
        finder = _finder_of(self.vocabulary)
        present = present_categories(finder, record)
        may_be_named = None if present is None else finder.vocabulary.true_of(present)
        return [_measured(one, finder, may_be_named) for one in sentences]


def _named(row: Row, finder: ObjectFinder) -> Row:
    present = present_categories(finder, row)
    may_be_named = None if present is None else finder.vocabulary.true_of(present)
    return replace(
        row,
        conversations=[_with_objects(spoken, finder, may_be_named) for spoken in row.conversations],
        objects_present=None if present is None else sorted(present),
    )


def _with_objects(
    conversation: Conversation, finder: ObjectFinder, may_be_named: Container[str] | None
) -> Conversation:
    return replace(
        conversation,
        sentences=[_measured(one, finder, may_be_named) for one in conversation.sentences],
        vig_sentences=[_measured(one, finder, may_be_named) for one in conversation.vig_sentences],
    )


def _measured(sentence: Sentence, finder: ObjectFinder, may_be_named: Container[str] | None) -> Sentence:
    named = [mention.category for mention in finder.find_objects(sentence.text)]
    absent = None if may_be_named is None else [category for category in named if category not in may_be_named]
    return replace(sentence, objects_named=named, objects_absent=absent)


_finders: dict[str, ObjectFinder] = {}


def _finder_of(vocabulary: Vocabulary) -> ObjectFinder:
    """Made once in each process: it takes half a second."""
    key = vocabulary.hash
    if key not in _finders:
        _finders[key] = ObjectFinder(vocabulary)
    return _finders[key]
