"""The data set directory: passes, committed rows, verdicts, and the proof that nothing is lost."""
