"""The verb `vigc serve`."""
