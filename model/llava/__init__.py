"""LLaVA-style models: the downstream models that the data are made for, loaded strictly, and how they are spoken to."""

from vigc.model.llava.network import LlavaNetwork, load_llava

__all__ = ["LlavaNetwork", "load_llava"]
