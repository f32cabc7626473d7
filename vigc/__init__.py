"""VIGC on Ray: images in, corrected instruction data out, with proof."""

__version__ = "0.1.0"
