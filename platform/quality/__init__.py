"""Is the data true: which objects a text names, which of them are not in the image, and how often that happens."""
