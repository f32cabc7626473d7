"""Whether a text tells left from right, so that a mirrored image would make it wrong (model/README.md, Q21).

A word too many only costs a mirrored image, a word too few teaches a falsehood: each "left" and "right" counts unless
it stands in a phrase that is known to mean something else.
"""

from __future__ import annotations

import re

_SIDES = re.compile(r"\b(?:left|right)(?:most|wards?)?\b|\b(?:counter-?|anti-?)?clockwise\b", re.IGNORECASE)
# After these words, left and right are sides whatever follows: "on the right behind the car".
_POINTING = (
    "the",
    "a",
    "its",
    "his",
    "her",
    "their",
    "my",
    "your",
    "our",
    "far",
    "to",
    "on",
    "at",
    "and",
    "or",
    "upper",
)
_ALONE = "".join(rf"(?<!\b{word}\s)" for word in (*_POINTING, "lower", "top", "bottom"))
_NO_SIDES = re.compile(
    rf"""
      {_ALONE}\bleft[-\s]overs?\b
    | {_ALONE}\bleft\s(?:alone|behind|open|closed|empty|out|unattended|uneaten|unfinished|untouched|intact|blank)\b
    | \b(?:has|have|had|having|just|already|recently)\sleft\b(?!\s(?:and|hand|side|of|arm|leg|foot|turn)\b)
    | \b(?:nothing|anything|something|time|much)\sleft\b(?!\sof\b)
    | \ball\sright\b
    | \b(?:that|that's|that\sis|you're|you\sare|is\sthat)\sright\b(?!\sof\b)
    | {_ALONE}\bright\s(?:away|now|here|there|then|after|before|next\sto|behind|beside|above|below|under|underneath
        |across|through|in\sfront\sof|in\sthe\s(?:middle|cent(?:er|re))|on\stime|up\sto|beneath|outside|inside)\b
    | \bright[-\s]of[-\s]way\b
    | \bright[-\s]angle[sd]?\b
    | \bright\s(?:answer|amount|balance|choice|conditions?|decision|equipment|idea|kind|moment|skills?|technique
        |temperature|time|timing|tools?)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)


def mentions_sides(text: str) -> bool:
    """True when the text says left or right of something in the image."""
    return _SIDES.search(text) is not None and _SIDES.search(_NO_SIDES.sub(" ", text)) is not None
