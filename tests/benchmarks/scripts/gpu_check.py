"""On a GPU: our kernels beside torch, and the texts of the embedded model in fp32 and bf16 beside those of a CPU.

PYTHONPATH=. python tests/benchmarks/scripts/gpu_check.py
"""

from __future__ import annotations

import asyncio

import torch

from vigc.model import embedded
from vigc.model.benchmarks.embedded import generate, held_out_scenes
from vigc.model.conversation.policy import make_policy
from vigc.model.engines.continuous import kernels
from vigc.model.engines.continuous.engine import ContinuousEngine
from vigc.model.network import load_network
from vigc.model.prompts import load_pack
from vigc.platform.records import Kind


def kernels_agree(device: str) -> None:
    """Where there is no GPU, Triton's interpreter stands in for one: TRITON_INTERPRET=1."""
    torch.manual_seed(0)
    tokens, slots = (64, 80) if device == "cuda" else (4, 6)  # an interpreter takes its time
    length, dim = 300, 128
    cos, sin = torch.rand(2, length, dim // 2, device=device).repeat(1, 1, 2).bfloat16()
    for heads, kv_heads in ((32, 32), (32, 8), (40, 40)):

        class Config:
            num_attention_heads, num_key_value_heads = heads, kv_heads

        attention = kernels.KernelAttention(Config, cos, sin)
        tables = attention._cos, attention._sin
        given = torch.randn(tokens, heads + 2 * kv_heads, dim, device=device).bfloat16()
        positions = torch.randint(length, (tokens,), device=device)
        positions[0] = 0
        q, k, v = attention._turned(given.double(), *(table[positions].double() for table in tables))
        name = f"{heads} heads, {kv_heads} of keys:"

        turned, places = given.clone(), torch.randperm(slots, device=device)[:tokens]
        keys, values = torch.randn(2, slots, kv_heads, length, dim, device=device).bfloat16()
        kernels.turn_and_store(turned, *tables, positions, places, keys, values)
        agree(f"{name} turned", turned[:, :heads], q)
        agree(f"{name} keys", keys[places, :, positions], k)
        agree(f"{name} values", values[places, :, positions], v)

        keys, values = torch.randn(2, slots, kv_heads, length, dim, device=device).bfloat16()
        untouched, here = keys.clone(), torch.arange(tokens, device=device)
        mixed = kernels.attend_to_slots(given, *tables, positions, keys, values)
        wanted = [
            torch.nn.functional.scaled_dot_product_attention(
                q[i, None, :, None],
                keys[i : i + 1, :, : positions[i] + 1].double(),
                values[i : i + 1, :, : positions[i] + 1].double(),
                enable_gqa=heads != kv_heads,
            )[0, :, 0]
            for i in range(tokens)
        ]
        agree(f"{name} a step's keys", keys[here, :, positions], k)
        agree(f"{name} a step's values", values[here, :, positions], v)
        agree(f"{name} what a step sees", mixed, torch.stack(wanted))
        untouched[here, :, positions] = keys[here, :, positions]
        assert torch.equal(untouched, keys), "a step writes where it should not"
    gate_up = torch.randn(tokens, 22016, device=device).bfloat16()
    right = torch.nn.functional.silu(gate_up[:, :11008].double()) * gate_up[:, 11008:].double()
    agree("gated", kernels.silu_and_multiply(gate_up), right)

    x, y = torch.randn(2, tokens, 4096, device=device).bfloat16()
    weight = torch.randn(4096, device=device).bfloat16()
    added = x.double() + y.double()
    normed = kernels.add_and_norm(x, y, weight, 1e-6)
    agree("added", x, added)
    agree("normed", normed, torch.nn.functional.rms_norm(x.double(), (4096,), weight.double(), 1e-6))

    logits = (4 * torch.randn(tokens, 32064, device=device))[:, :32001]
    logits[0, :9000] = -torch.inf
    for given in (logits, logits.bfloat16()):
        found, logprobs = kernels.greedy(given)
        assert torch.equal(given.gather(1, found[:, None])[:, 0], given.amax(dim=-1)), "another token is likelier"
        agree("its log-probability", logprobs, given.double().log_softmax(dim=-1).amax(dim=-1))


def agree(name: str, found: torch.Tensor, right: torch.Tensor) -> None:
    error = float((found.double() - right).norm() / right.norm())
    print(f"{name}: differs by {error:.1e}")
    assert error < 1e-2, name


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
