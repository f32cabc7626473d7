"""Engines answer requests about images. `continuous` is the default, `reference` the oracle; `vllm` has the language
model in vLLM. `EngineSettings` say which, and `start_engine` starts it.
"""
