"""`vigc digest`: one hash over what a data set says."""

from vigc.platform.dataset.digest import digest

__all__ = ["digest"]
