"""The verb `vigc evaluate`."""
