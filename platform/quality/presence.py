"""Which objects are in an image, and which of those that a conversation names are not.

Truth is what is annotated together with what the image's captions name, because boxes are incomplete: `LIMIT` says so
wherever figures are shown. A crowd box and a box of a picture or toy of the thing count like any other.
"""

from __future__ import annotations

from dataclasses import replace

from vigc.platform.quality.mentions import ObjectFinder
from vigc.platform.records import Conversation, ImageRecord

LIMIT = (
    '"Absent" means that neither a box nor a caption names the object. Boxes are incomplete: what is absent by them '
    "may be in the image without a label, so the true rates of hallucination may be lower."
)


def present_categories(finder: ObjectFinder, record: ImageRecord) -> frozenset[str] | None:
    """The categories of the finder's vocabulary that are known to be there; None where the image has no annotations.

    Captions alone are no annotations: they name what their writer found worth it.
    """
    if record.objects is None:
        return None
    annotated = {finder.vocabulary.category(name) for name in {box.category for box in record.objects}}
    captioned = (finder.categories(caption) for caption in record.captions or ())
    return frozenset(category for category in annotated if category).union(*captioned)


def with_objects(conversation: Conversation, record: ImageRecord, finder: ObjectFinder) -> Conversation:
    """The conversation with `objects_named` and `objects_absent` of each sentence of its answer.

    Both hold each category once, in the order of the text; `objects_absent` is None where the image has no annotations.
    """
    present = present_categories(finder, record)
    may_be_named = None if present is None else finder.vocabulary.true_of(present)
    sentences = []
    for sentence in conversation.sentences:
        named = finder.categories(sentence.text)
        absent = None if may_be_named is None else [category for category in named if category not in may_be_named]
        sentences.append(replace(sentence, objects_named=named, objects_absent=absent))
    return replace(conversation, sentences=sentences)
