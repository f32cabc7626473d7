"""The streaming graph on Ray Data: decode, generate, commit; capacity, progress and stalls."""
