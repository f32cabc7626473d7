"""On a GPU: our kernels beside torch, and the texts of the embedded model in fp32 and bf16 beside those of a CPU.

PYTHONPATH=. python tests/benchmarks/gpu_check.py
"""

from __future__ import annotations

import asyncio

import torch

from vigc.model import embedded
from vigc.model.embedded.evaluate import generate, held_out_scenes
from vigc.model.engines import ContinuousEngine, kernels
from vigc.model.network import load_network
from vigc.model.policy import make_policy
from vigc.model.prompts import load_pack
from vigc.platform.records import Kind


def kernels_agree(device: str) -> None:
    """Where there is no GPU, Triton's interpreter stands in for one: TRITON_INTERPRET=1."""
    torch.manual_seed(0)
    tokens, slots = (64, 80) if device == "cuda" else (4, 6)  # an interpreter takes its time
    length, dim = 300, 128
    for heads, kv_heads in ((32, 32), (32, 8), (40, 40)):

        class Config:
            num_attention_heads, num_key_value_heads = heads, kv_heads

        cos, sin = torch.rand(2, length, dim // 2, device=device).repeat(1, 1, 2).bfloat16()
        given = torch.randn(tokens, heads + 2 * kv_heads, dim, device=device).bfloat16()
        attention = kernels.KernelAttention(Config, cos, sin)
        positions = torch.randint(length, (tokens,), device=device)
        places = torch.randperm(slots, device=device)[:tokens]
        keys, values = torch.randn(2, slots, kv_heads, length, dim, device=device).bfloat16()
        q, k, v = attention._turned(
            given.double(), attention._cos[positions].double(), attention._sin[positions].double()
        )
        turned = given.clone()
        kernels.turn_and_store(turned, attention._cos, attention._sin, positions, places, keys, values)
        mixed = kernels.attend_to_slots(turned[:, :heads], keys, values, positions)
        wanted = torch.stack(
            [
                torch.nn.functional.scaled_dot_product_attention(
                    turned[i, :heads].double()[None, :, None],
                    keys[i : i + 1, :, : positions[i] + 1].double(),
                    values[i : i + 1, :, : positions[i] + 1].double(),
                    enable_gqa=heads != kv_heads,
                )[0, :, 0]
                for i in range(tokens)
            ]
        )
        for name, found, right in (
            ("turned", turned[:, :heads], q),
            ("keys", keys[places, :, positions], k),
            ("values", values[places, :, positions], v),
            ("mixed", mixed, wanted),
        ):
            error = float((found.double() - right).norm() / right.norm())
            print(f"{heads} heads, {kv_heads} of keys: {name} differ by {error:.1e}")
            assert error < 1e-2, name
    gate_up = torch.randn(tokens, 22016, device=device).bfloat16()
    right = torch.nn.functional.silu(gate_up[:, :11008].double()) * gate_up[:, 11008:].double()
    error = float((kernels.silu_and_multiply(gate_up).double() - right).norm() / right.norm())
    print(f"gated differs by {error:.1e}")
    assert error < 1e-2


def texts(device: str, dtype: str, num: int) -> list[str]:
    network = load_network(embedded.PATH, device=device, dtype=dtype)
    engine = ContinuousEngine(network, num_slots=64)
    try:
        rows = asyncio.run(
            generate(engine, load_pack(), make_policy("paper"), held_out_scenes(num, seed=41), list(Kind)[:3])
        )
    finally:
        engine.close()
    return [f"{spoken.question} {spoken.vig_answer} {spoken.answer}" for row in rows for spoken in row]


def main(num: int = 100) -> None:
    kernels_agree("cuda")
    wanted = texts("cpu", "float32", num)
    for dtype in ("float32", "bfloat16"):
        found = texts("cuda", dtype, num)
        same = sum(a == b for a, b in zip(wanted, found, strict=True))
        print(f"{dtype} on the GPU: {same} of {len(wanted)} conversations are those of fp32 on the CPU")


if __name__ == "__main__":
    main()
