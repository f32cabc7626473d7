"""`python -m vigc`, which is what a job on a cluster calls: its script folder may not be on the PATH there."""

from vigc.jobs.cli import main

main()
