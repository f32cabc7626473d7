"""How much an engine may hold, from the memory that is free, and what says that there was not enough."""

from __future__ import annotations

import math

import torch

from vigc.model.completion import CPU_SLOTS, GPU_SLOTS
from vigc.model.engines.continuous.cache import cache_shape
from vigc.model.network import Network
from vigc.platform.records import ConfigError

SHARE = 0.8  # of what is free; the rest is for what is held for a moment
IMAGES_PER_SLOT = 2  # that wait beside those that are talked about


MOST_CONTEXT = 768  # visual tokens + prompt + answer


def context_length(network: Network, most: int = MOST_CONTEXT) -> int:
    """Positions of a slot: no more than the model can tell apart."""
    return min(int(network.language_model.config.max_position_embeddings), most)


def slots_to_use(network: Network, length: int, num_slots: int | None, memory_bytes: int | None) -> int:
    """As many as are asked for; as many as fit, where nobody says how many or memory is bounded.

    Raises:
        ConfigError: not even one fits.
    """
    if num_slots is not None and memory_bytes is None:
        return num_slots
    fitting = num_slots_for(network, length, memory_bytes)
    return min(fitting, num_slots or fitting)


def num_slots_for(network: Network, length: int, memory_bytes: int | None = None) -> int:
    """As many slots as fit, of `length` positions each, with their images.

    Args:
        memory_bytes: for slots and images; None: what is free on a GPU, and CPU_SLOTS on a CPU.
    Raises:
        ConfigError: not even one fits.
    """
    each = slot_bytes(network, length) + IMAGES_PER_SLOT * image_bytes(network)
    on_gpu = network.device.type == "cuda"
    if memory_bytes is None and not on_gpu:
        return CPU_SLOTS
    if on_gpu:
        torch.cuda.empty_cache()  # what torch keeps of earlier work is free as well
    room = SHARE * torch.cuda.mem_get_info(network.device)[0] if on_gpu else math.inf
    room = min(room, math.inf if memory_bytes is None else memory_bytes)
    if room < each:
        raise ConfigError(
            f"The engine needs {each / 2**20:.0f} MiB for one slot of {length} positions and its images, and may use "
            f"{room / 2**20:.0f} MiB. Raise --engine-memory, or use a GPU with more memory."
        )
    return int(min(GPU_SLOTS if on_gpu else CPU_SLOTS, room // each))


def slot_bytes(network: Network, length: int) -> int:
    return 2 * math.prod(cache_shape(network, 1, length)) * network.dtype.itemsize


def image_bytes(network: Network) -> int:
    """Of the Q-Former's memory of one image."""
    vision, qformer = network.model.config.vision_config, network.model.config.qformer_config
    positions = (vision.image_size // vision.patch_size) ** 2 + 1
    looks = len(range(0, qformer.num_hidden_layers, qformer.cross_attention_frequency))
    return int(2 * looks * positions * qformer.hidden_size * network.dtype.itemsize)


def is_out_of_memory(error: BaseException) -> bool:
    """On a GPU, which has an exception of its own for it, or on a CPU, which has a text."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
