"""What VIC changed in VIG's answer, word by word.

On a terminal, words that VIC dropped are struck out in red and words that are new stand in green; without colours they
are written `[-dropped-]` and `{+new+}`, as wdiff does.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from rich.text import Text


def marked(before: str, after: str, *, colours: bool) -> tuple[Text, Text]:
    """Both texts, each with what the other has not marked in it."""
    old, new = _words(before), _words(after)
    left, right = Text(), Text()
    matcher = SequenceMatcher(None, [word.strip() for word in old], [word.strip() for word in new], autojunk=False)
    for change, a, b, c, d in matcher.get_opcodes():
        for text, words, style, opening, closing in (
            (left, old[a:b], "red strike", "[-", "-]"),
            (right, new[c:d], "bold green", "{+", "+}"),
        ):
            joined = "".join(words)
            if change == "equal" or not joined.strip():
                text.append(joined)
            elif colours:
                text.append(joined, style)
            else:
                stripped = joined.rstrip()
                text.append(f"{opening}{stripped}{closing}{joined[len(stripped) :]}")
    return left, right


def _words(text: str) -> list[str]:
    """Words with the blanks behind them; joined they give the text back."""
    return re.findall(r"\S+\s*|^\s+", text)
