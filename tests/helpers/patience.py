"""How long a test waits for what must come: longer than the busiest machine needs, so that only a hang is a failure."""

PATIENCE_S = 600.0
