"""The verb `vigc submit`."""
