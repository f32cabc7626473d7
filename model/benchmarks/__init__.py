"""How fast an engine makes conversations, beside the paper's loop on the same weights, images and prompts.

Needs nothing but torch and transformers, so it also runs where the rest of the program is not installed:

    python -m vigc.model.benchmarks --shape vicuna-7b --dtype bfloat16
"""
