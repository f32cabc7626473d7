"""The verb `vigc generate`."""
