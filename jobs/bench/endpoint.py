"""`vigc bench endpoint`: `vigc generate` beside a bare asynchronous client, on the same server, images and prompts.

The bare client does nothing but keep so many conversations under way: for each image it sends VIG's prompt, cuts the
question out of the answer, and sends VIC's. Its images are decoded and encoded beforehand, and nothing is kept. The
pipeline reads, encodes, checks, commits and merges meanwhile. Both are timed from the first request to the last row, so
start-up is left out. Rounds alternate, so what else the machine does falls on both.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from vigc.jobs.bench.common import write_figures
from vigc.jobs.bench.pipeline import ClockedWorker, read_notes
from vigc.jobs.generate.config import GenerateConfig
from vigc.jobs.generate.plan import Plan, make_plan
from vigc.jobs.generate.run import run_pipeline
from vigc.jobs.terminal import make_console
from vigc.model.conversation.policy import make_policy
from vigc.model.conversation.vigc import parse
from vigc.model.engines.endpoint.address import read_key
from vigc.model.engines.endpoint.engine import ANSWER_TOKENS
from vigc.model.engines.endpoint.messages import choice_text, image_part, user_turn
from vigc.model.engines.settings import EndpointSettings
from vigc.model.prompts import PromptPack
from vigc.platform.dataset.layout import Block
from vigc.platform.dataset.passes import Pass, read_block
from vigc.platform.images.decode import MAX_PIXELS
from vigc.platform.images.encode import encode_batch
from vigc.platform.records import ConfigError, Kind

if TYPE_CHECKING:
    import aiohttp

VIG_TOKENS = make_policy("paper").max_tokens


def generate_beside_client(
    *,
    images: str,
    model: str,
    endpoint_model: str | None,
    api_key_env: str | None,
    num: int,
    under_way: Sequence[int],
    rounds: int,
    json_file: Path | None,
) -> None:
    """Alternates `rounds` runs of each, for each number of conversations under way."""
    figures: dict[str, Any] = {"model": model, "num_images": num, "rounds": rounds}
    table = Table(
        "under way", "bare client, images/s", "generate, images/s", "generate / bare", box=None, pad_edge=False
    )
    for num_under_way in under_way:
        rates: dict[str, list[float]] = {"bare": [], "generate": []}
        for _ in range(rounds):
            with tempfile.TemporaryDirectory(prefix="vigc-bench-") as folder:
                config = GenerateConfig(
                    images=images,
                    out=str(Path(folder) / "data"),
                    limit=num,
                    kinds=(Kind.DETAIL,),
                    model=model,
                    endpoint_model=endpoint_model,
                    api_key_env=api_key_env,
                    concurrency=num_under_way,
                    objects="none",
                    tracking="none",
                )
                plan = make_plan(config).with_abilities()
                assert plan.source is not None
                pass_ = plan.store.create_pass(plan.request, plan.source)
                rates["bare"].append(asyncio.run(_bare_rate(plan, pass_, num_under_way)))
                rates["generate"].append(_pipeline_rate(plan, pass_, Path(folder) / "notes.json"))
        ratios = [ours / bare for bare, ours in zip(rates["bare"], rates["generate"], strict=True)]
        medians = {name: statistics.median(values) for name, values in rates.items()}
        figures |= {f"images_per_s_{name}_{num_under_way}": value for name, value in medians.items()}
        figures |= {f"ratio_{num_under_way}": statistics.median(ratios), f"ratios_{num_under_way}": ratios}
        table.add_row(
            str(num_under_way),
            f"{medians['bare']:.2f}",
            f"{medians['generate']:.2f}",
            f"{statistics.median(ratios):.3f} ({', '.join(f'{one:.3f}' for one in ratios)})",
        )
    make_console().print(table)
    write_figures(json_file, figures)


def _pipeline_rate(plan: Plan, pass_: Pass, notes: Path) -> float:
    run_pipeline(plan, pass_, None, ClockedWorker, str(notes))
    return read_notes(notes, pass_.num_requested).images_per_s


async def _bare_rate(plan: Plan, pass_: Pass, num_under_way: int) -> float:
    """Images a second."""
    import aiohttp

    endpoint = plan.engine.endpoint
    if endpoint is None or endpoint.image_side is not None:
        raise ConfigError("--model must be the address of an endpoint whose model is asked for whole answers.")
    blocks = [Block(shard, number) for shard, numbers in pass_.ledger().remaining() for number in numbers]
    records = (read_block(pass_.folder, pass_.layout, block) for block in blocks)
    tables = [encode_batch(some, plan.image_side, MAX_PIXELS) for some in records]
    parts = [image_part(data) for table in tables for data in table["pixels"].to_pylist() if data is not None]
    headers = {} if (key := read_key(endpoint.key_env)) is None else {"Authorization": f"Bearer {key}"}
    waiting = iter(parts)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def keep_one_under_way() -> None:
            for part in waiting:
                await _converse(session, endpoint, plan.conversations.pack, part)

        began = time.monotonic()
        await asyncio.gather(*(keep_one_under_way() for _ in range(num_under_way)))
        return len(parts) / (time.monotonic() - began)


async def _converse(
    session: aiohttp.ClientSession, endpoint: EndpointSettings, pack: PromptPack, image: dict[str, Any]
) -> None:
    instruction = pack.vig_prompt(Kind.DETAIL)
    pair = parse(await _ask(session, endpoint, instruction, image, VIG_TOKENS), pack)
    if pair is not None:
        prompt = pack.vic_prompt(instruction, pair[0], pack.kind(Kind.DETAIL).style)
        await _ask(session, endpoint, prompt, image, ANSWER_TOKENS)


async def _ask(
    session: aiohttp.ClientSession, endpoint: EndpointSettings, prompt: str, image: dict[str, Any], max_tokens: int
) -> str:
    body: dict[str, Any] = {"model": endpoint.model, "messages": [user_turn(prompt, [image])], "temperature": 0}
    body["max_tokens"] = max_tokens
    if endpoint.abilities is not None and endpoint.abilities.logprobs:
        body["logprobs"] = True
    async with session.post(f"{endpoint.url}/chat/completions", json=body) as response:
        response.raise_for_status()
        return choice_text(await response.json())
