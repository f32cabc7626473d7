"""The verb `vigc ingest`."""
