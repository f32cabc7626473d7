"""The engine whose language model runs in vLLM, in a process and environment of its own."""
