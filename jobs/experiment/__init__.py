"""The verb `vigc experiment`."""
