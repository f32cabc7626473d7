"""Data sets: passes, committed rows, verdicts, and the proof that nothing is lost."""
