"""Training: what is learnt (objectives, tasks), what may change (trainable) and how (recipe, schedule, parallel, loop).

No Ray here: `jobs/train*.py` feeds it rows and carries it over machines.
"""

from vigc.model.training.instructions import IGNORE
from vigc.model.training.schedule import Schedule, make_optimizer

__all__ = ["IGNORE", "Schedule", "make_optimizer"]
