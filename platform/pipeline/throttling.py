"""Throttles Ray Data's control loop, and keeps it from remembering every block.

While tasks make rows faster than they are taken, the loop finds every task ready and waits for nothing: it turns as
fast as a core allows, in the very process that takes the rows. On two cores training was less than half as fast. And it
keeps some kilobytes about each block for `Dataset.stats()`, which nobody asks for here: over days the driver would grow
by hundreds of megabytes.
"""

from __future__ import annotations

import time
from typing import Any

STEP_S = 0.02  # far below what a task takes


class Throttle:
    """An execution callback of Ray Data that pauses at every turn of the loop, and lets the operators forget."""

    def before_execution_starts(self, executor: Any) -> None:
        pass

    def on_execution_step(self, executor: Any) -> None:
        time.sleep(STEP_S)
        for operator in executor._topology:
            # Not in Ray's interface: where a version has no such list, there is nothing to forget.
            getattr(operator, "_output_blocks_stats", []).clear()

    def after_execution_succeeds(self, executor: Any) -> None:
        pass

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        pass


def throttle(context: Any) -> None:
    """Throttles what is executed under this DataContext."""
    classes = context.custom_execution_callback_classes
    if Throttle not in classes:
        context.custom_execution_callback_classes = [*classes, Throttle]
