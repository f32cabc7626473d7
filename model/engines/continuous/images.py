"""The images of an engine: they wait to be seen, are seen many at a time, and what the Q-Former remembers of them is
held while they are open.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from vigc.model.engines.base import Encode, EngineJob, ImageHandle, pixels_of
from vigc.model.engines.continuous.qformer import QFormer
from vigc.model.engines.interface import BLANK, Blank
from vigc.model.engines.metrics import QFORMER, VISION, EngineMetrics
from vigc.model.network import Network
from vigc.platform.records import ModelError


class Images:
    """See the module. Of images that are open, no more than `most_held` are seen."""

    def __init__(self, network: Network, metrics: EngineMetrics, most_held: int) -> None:
        self._network, self.metrics, self._most_held = network, metrics, most_held
        if network.device.type == "cuda":  # cuDNN's attention plans 6 ms for each new shape, and most are new
            torch.backends.cuda.enable_cudnn_sdp(False)
        with torch.inference_mode():
            self._qformer = QFormer(network)
        self.waiting: deque[EngineJob[Encode]] = deque()
        self.held: set[ImageHandle] = set()
        self._blank: Tensor | None = None

    @property
    def room(self) -> int:
        """How many of the waiting images may be encoded now."""
        return min(self._most_held - len(self.held), len(self.waiting))

    def take(self, number: int) -> list[EngineJob[Encode]]:
        return [self.waiting.popleft() for _ in range(number)]

    def see(self, jobs: Sequence[EngineJob[Encode]]) -> None:
        """Encodes the images of these jobs, keeps what the Q-Former remembers of them, and answers."""
        for job, one in zip(jobs, self.remembered([job.image for job in jobs]), strict=True):
            if isinstance(job.image, ImageHandle):
                job.image.memory = one.clone()  # else it would hold those of all others
                self.held.add(job.image)
            job.answer(None)

    def release(self, handle: ImageHandle) -> None:
        self.held.discard(handle)

    def drop_cancelled(self) -> None:
        if any(job.cancelled.is_set() for job in self.waiting):
            self.waiting = deque(job for job in self.waiting if not job.cancelled.is_set())

    def memory(self, image: ImageHandle | Blank) -> Tensor:
        """What the Q-Former remembers of an image: (layers that look, 2, heads, num_patches + 1, head_dim).

        Raises:
            ModelError: it was closed.
        """
        if isinstance(image, ImageHandle):
            if image.memory is None:
                raise ModelError("The image was closed before its request was answered.")
            return image.memory
        if self._blank is None:
            self._blank = self.remembered([BLANK])[0]
        return self._blank

    def remembered(self, images: Sequence[ImageHandle | Blank]) -> Tensor:
        """The same for several images, computed now: one more dimension in front."""
        with self.metrics.part(VISION):
            self.metrics.num_images += len(images)
            pixels = torch.stack([pixels_of(self._network, image) for image in images])
            return self._qformer.memory(self._network.encode_images(pixels))

    def visual(self, memory: Sequence[Tensor], rows: Sequence[list[int]]) -> Tensor:
        """What the language model sees of images under these texts: (batch, num_queries, language_width).

        Args:
            rows: each text, from `Network.qformer_row`.
        """
        with self.metrics.part(QFORMER):
            ids, mask = self._network.padded_for_qformer(rows)
            self.metrics.num_calls += len(rows)
            self.metrics.num_qformer += mask.numel() + len(rows) * self._network.num_queries
            return self._qformer.visual_tokens(torch.stack(list(memory)), ids, mask).to(self._network.dtype)
