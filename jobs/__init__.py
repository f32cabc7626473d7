"""One module per verb, and the command line. The only place where `vigc.platform` and `vigc.model` meet."""
