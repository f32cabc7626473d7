"""What a run costs, so far and to its end, and when its budget is spent.

Two things cost: tokens that an endpoint counts, and hours of GPUs or machines. A budget is for a whole pass, whatever
interrupted it. It counts what is under way at the mean cost of an image, so that a run which stops begins nothing that
the budget does not pay for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vigc.platform.pipeline.progress import Progress
from vigc.platform.planning import TokenPrice, load_prices
from vigc.platform.records import ConfigError, RunError, TokenUsage

# Of an image, before the first one is done: two questions for each kind, with an image of some thousand tokens.
EXPECTED_PER_KIND = TokenUsage(3000, 600)
STOP_DELAY_S = 2.0  # from here until no stage begins anything more
SHARE_BEGUN = 0.1  # of a budget: no more images than this pays for are begun before the first is done


class BudgetSpent(RunError):
    """The budget does not pay for more images."""


@dataclass(frozen=True, slots=True)
class RunPrices:
    """What is paid for, and how much may be."""

    per_hour: float | None  # of a GPU, or of a machine where there is none
    tokens: TokenPrice | None
    budget: float | None
    currency: str

    @property
    def are_known(self) -> bool:
        return self.per_hour is not None or self.tokens is not None

    def spent(self, usage: TokenUsage, hours: float) -> float | None:
        """None: no price is known."""
        if not self.are_known:
            return None
        return (self.per_hour or 0.0) * hours + (self.tokens.of(usage) if self.tokens is not None else 0.0)

    def told(self, now: Progress, hours: float, num_held: float) -> Progress:
        """The progress with the money that is spent and, from the first images on, what will be.

        Args:
            hours: that all runs have paid for.
            num_held: GPUs, or machines where there are none, that the run holds now.
        """
        spent = self.spent(now.tally.usage, hours)
        if spent is None or now.seconds_left is None:
            return replace(now, spent=spent)
        to_spend = self._of_an_image(now) * (now.total - now.done)
        to_spend += (self.per_hour or 0.0) * num_held * now.seconds_left / 3600
        return replace(now, spent=spent, to_spend=to_spend)

    def is_spent(self, now: Progress) -> bool:
        """Whether the budget pays for nothing more than what is under way; `now` is as `told` gives it."""
        if self.budget is None or now.spent is None or now.done >= now.total:
            return False
        begun = now.num_under_way + STOP_DELAY_S * (now.images_per_s or 0.0)
        return now.spent + min(begun, now.total - now.done) * self._of_an_image(now) >= self.budget

    def most_images_begun(self, num_kinds: int) -> int | None:
        """How many may be begun before the first is done; None: any number."""
        if self.budget is None or self.tokens is None:
            return None
        expected = num_kinds * self.tokens.of(EXPECTED_PER_KIND)
        return max(1, int(SHARE_BEGUN * self.budget / expected)) if expected else None

    def refusal(self, spent: float, how_far: str) -> BudgetSpent:
        return BudgetSpent(
            f"The budget of {self.budget:g} {self.currency} is spent: {spent:.2f} so far. {how_far} "
            "Give it a larger --budget."
        )

    def _of_an_image(self, now: Progress) -> float:
        """The mean of its tokens."""
        return self.tokens.of(now.tally.usage) / now.done if self.tokens is not None and now.done else 0.0


def read_prices(
    model: str,
    *,
    per_hour: float | None,
    token_price: tuple[float, float] | None,
    table: Path | None,
    budget: float | None,
    is_endpoint: bool,
) -> RunPrices:
    """
    Args:
        model: its name at the endpoint, by which the table has its price.
    Raises:
        ConfigError: the table cannot be read, a price of tokens is given for a model that runs here, or there is a
            budget and no price.
    """
    if token_price is not None and not is_endpoint:
        raise ConfigError("--token-price is for a model behind an endpoint. For one that runs here give --price.")
    known = load_prices(table)
    tokens = None
    if is_endpoint:
        tokens = TokenPrice(*token_price) if token_price is not None else known.models.get(model)
    prices = RunPrices(per_hour, tokens, budget, known.currency)
    if budget is not None and not prices.are_known:
        what = f"--token-price IN,OUT, or a table with {model!r} (--prices FILE)" if is_endpoint else "--price"
        raise ConfigError(f"--budget {budget:g} needs to know what the run costs. Give {what}.")
    return prices
