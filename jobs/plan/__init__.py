"""The verb `vigc plan`."""
