"""Getting images: fetching, decoding, and the child processes that keep a bad file from hurting a run."""
