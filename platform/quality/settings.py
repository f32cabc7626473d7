"""The settings of `vigc filter` and their defaults. It imports little, since the help shows them."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vigc.platform.records import ConfigError
from vigc.platform.settings import flag

Share = Annotated[float, Field(ge=0, le=1)]
# Headings of the help.
ALONE, TOGETHER = "Each conversation by itself", "All of them together"
NEVER = "not looked at"


_alone, _together = (partial(flag, panel=panel) for panel in (ALONE, TOGETHER))


class FilterSettings(BaseModel):
    """None: not looked at. The defaults refuse what is broken or said twice; what is a matter of taste has to be asked
    for, and what is not wanted is named in `off`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_words: int = _alone("Reject answers with fewer words.", 1, ge=0)
    max_words: int = _alone("Reject answers with more words.", 500)
    max_repetition: Share = _alone(
        "Reject answers of which a larger share of the runs of six words were there before.", 0.3, metavar="SHARE"
    )
    max_absent: int = _alone("Reject answers that name more different objects which are not in the image.", 1, ge=0)
    min_grounding: float | None = _alone(
        "Reject answers with a sentence grounded less, where it was measured.", None, shown=NEVER
    )
    disallowed: tuple[str, ...] = ()  # words and phrases that may not occur
    language: str | None = _alone(
        "Reject answers in another language, such as any but `en`.", None, metavar="CODE", shown=NEVER
    )
    similar_question: Share = _together(
        "Treat two questions as the same if they share at least this fraction of their words.", 0.7, metavar="SHARE"
    )
    similar_meaning: Share | None = _together(
        "Also treat them as the same above this cosine of their embeddings, such as 0.9; slower.",
        None,
        metavar="COSINE",
        shown=NEVER,
    )
    max_distance: int = _together(
        "Treat images as near-duplicates whose 64-bit hashes differ in at most this many bits.",
        4,
        metavar="BITS",
        ge=0,
        le=16,
    )
    max_same_question: Share = _together(
        "Let at most this share of a kind ask the same question; a hundred always may.", 0.02, metavar="SHARE"
    )
    max_opening: Share | None = _together(
        "Let at most this share of a kind's questions start with the same two words.",
        None,
        metavar="SHARE",
        shown=NEVER,
    )
    max_yes_no: Annotated[float, Field(ge=0.5, le=1)] | None = _together(
        "Among answers that begin with yes or no, let at most this share say the same.",
        None,
        metavar="SHARE",
        shown=NEVER,
    )
    off: tuple[str, ...] = flag("Leave out the filters with these names.", ())
    also: tuple[str, ...] = flag("Run these filters of installed plug-ins, too.", (), metavar="NAME,…")
    seed: int = flag("The seed for choosing which conversations stay where there are too many.", 0)

    @model_validator(mode="after")
    def _has_fewest_words_first(self) -> FilterSettings:
        if self.max_words < self.min_words:
            raise ConfigError(f"--min-words {self.min_words}, --max-words {self.max_words}: the first is the smaller.")
        return self

    def as_json(self) -> dict[str, Any]:
        """These settings alone, also of a verb that has more."""
        return self.model_dump(mode="json", include=set(FilterSettings.model_fields))
