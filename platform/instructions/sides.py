"""Whether a text speaks of left and right, so that its picture must not be mirrored (quirk Q21)."""

from __future__ import annotations

import re

# "left" and "right" as places or directions; "left over", "right away", "all right", "the right answer" are not.
_SIDES = re.compile(
    r"\b(?:left|right)(?:most|ward|wards|-?hand(?:ed)?|-?side)\b"
    r"|\b(?:to|on|at|from|in|towards?|upper|lower|top|bottom|far|its|his|her|their|the)[ -]+(?:the )?(?:left|right)\b"
    r"(?! (?:away|now|answer|choice|thing|time|way|amount|order|person|people|tool|tools|moment|size|direction|over))"
    r"|\b(?:left|right) (?:of|side|hand|corner|edge|half|part|foot|arm|leg|eye|wing|lane|turn)\b"
    r"|\b(?:facing|turns?|turning|looking|leaning|heading|moving|and|or) (?:left|right)\b(?! (?:away|now))"
    r"|\b(?:left|right)[.,;!?](?:\s|$)",
    re.I,
)
_NOT = re.compile(
    r"\b(?:all right|alright|that(?:'s| is) right|are right|is right|were left|was left|nothing left)\b", re.I
)


def mentions_sides(text: str) -> bool:
    return _SIDES.search(_NOT.sub(" ", text)) is not None
