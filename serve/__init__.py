"""The interactive service: the same engine and coroutine as the job, one image at a time."""
