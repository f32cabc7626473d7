"""Models as folders and checkpoints: loading them, saving them, and moving them to and from LAVIS."""
