"""Whether a run fits a Ray cluster, and how many actors leave room for the tasks beside them.

An actor holds its CPUs for the whole run, so actors that fill a cluster leave none to decode and commit
with, and Ray waits for ever: also when they fill only what is left of it after a node died, and the blocks that died
with the node cannot be made again. Actors on GPUs therefore hold no CPU at all, and others no more than what leaves
the cluster, without its largest node, `CPUS_BESIDE_ACTORS` to work with.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass

from vigc.platform.pipeline.ray_session import CPUS_BESIDE_ACTORS, CPUS_PER_ACTOR
from vigc.platform.records import ConfigError
from vigc.platform.storage import Folder, LocalFolder

# Of the three kinds of tasks beside the actors; see graph.py.
CPUS_TO_LIST, CPUS_TO_DECODE, CPUS_TO_COMMIT = 0.1, 1.0, 0.25
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Size:
    """What the nodes of a cluster that are alive have."""

    cpus: float
    gpus: float
    largest_node: float  # CPUs of it
    num_nodes: int

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPUs" if self.gpus else ""
        return f"{self.cpus:g} CPUs{gpus}"


@dataclass(frozen=True, slots=True)
class Need:
    """What a run needs at the least; whether it begins or goes on makes no difference."""

    actors: int
    gpus_per_actor: float

    @property
    def cpus(self) -> int:
        held = 0 if self.gpus_per_actor else self.actors * CPUS_PER_ACTOR
        return math.ceil(held + CPUS_TO_LIST + CPUS_TO_DECODE + CPUS_TO_COMMIT)

    @property
    def gpus(self) -> float:
        return self.actors * self.gpus_per_actor

    def fits(self, size: Size) -> bool:
        return size.cpus >= self.cpus and size.gpus >= self.gpus - _ROUNDING

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPUs" if self.gpus else ""
        return f"{self.cpus} CPUs{gpus}"


def size_of_cluster() -> Size:
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    cpus = [node.get("CPU", 0.0) for node in nodes]
    return Size(sum(cpus), sum(node.get("GPU", 0.0) for node in nodes), max(cpus, default=0.0), len(nodes))


def grows_by_itself() -> bool:
    """Whether an autoscaler may add nodes; also where that cannot be found out."""
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental.internal_kv import _internal_kv_get

    try:
        report = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS))["autoscaler_report"]
        node_types = [*report["active_nodes"], *(report["idle_nodes"] or ())]
    except (TypeError, KeyError, ValueError):
        return True  # no report of that form, or none yet
    # Where nobody adds nodes, Ray gives each of them a type of its own, named after the node.
    return not all(name.startswith("node_") for name in node_types)


def check_fits(need: Need) -> None:
    """Refuses a cluster that is too small, on which Ray would wait for ever.

    Raises:
        ConfigError: the cluster does not grow, and is too small.
    """
    size = size_of_cluster()
    if need.fits(size):
        return
    if grows_by_itself():
        logging.getLogger(__name__).warning(
            "The cluster has %s; this run needs %s at the least, and waits until the cluster has grown.", size, need
        )
        return
    raise ConfigError(too_small(size, need))


def too_small(size: Size, need: Need) -> str:
    remedy = f"Add nodes until there are {need}"
    if need.actors > 1:
        remedy += ", or lower --actors"
    return f"The cluster has {size}; a run with {_actors(need.actors)} needs {need} at the least. {remedy}."


def fitted_actors(least: int, most: int, gpus_per_actor: float, size: Size) -> tuple[int, int]:
    """The least and the most actors that a cluster of this size holds with room beside them; 1 in any case."""
    if gpus_per_actor:
        room = math.floor(size.gpus / gpus_per_actor + _ROUNDING)
        least = max(1, min(least, room))
        return least, max(least, min(most, room))
    held = CPUS_TO_LIST + CPUS_TO_DECODE + CPUS_TO_COMMIT
    least = max(1, min(least, math.floor((size.cpus - held) / CPUS_PER_ACTOR)))
    spared = CPUS_BESIDE_ACTORS + (size.largest_node if size.num_nodes > 1 else 0)
    return least, max(least, min(most, math.floor((size.cpus - spared) / CPUS_PER_ACTOR)))


def check_shared(folder: Folder) -> None:
    """Warns where several nodes write to a local folder: what one writes to its own disk, the others do not see."""
    num_nodes = size_of_cluster().num_nodes
    if num_nodes > 1 and isinstance(folder, LocalFolder):
        logging.getLogger(__name__).warning(
            "%s has to be the same folder on all %d nodes, on a file system that they share.", folder, num_nodes
        )


def _actors(number: int) -> str:
    return "1 actor" if number == 1 else f"{number} actors"
