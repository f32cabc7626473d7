"""The benchmarks of `vigc bench`."""
