"""The verb `vigc weights`."""
