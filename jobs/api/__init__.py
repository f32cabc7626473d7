"""What `import vigc` gives: make a data set, open one, or speak with a model about one image."""

from vigc.jobs.api.data import Dataset, generate, open_dataset
from vigc.jobs.api.speak import LoadedEngine, converse, load_engine

__all__ = ["Dataset", "LoadedEngine", "converse", "generate", "load_engine", "open_dataset"]
