"""The process that vLLM runs in, and the messages that it exchanges with ours. It is started by its path, with another
environment's Python: nothing here imports from vigc, and vLLM is imported by that process alone.

A message is a JSON object with a tail of bytes. To vLLM go `add` (prompt embeddings in the tail) and `drop`; back come
`ready`, then `tokens`, one list for each step, `refused` (a request that vLLM does not take), and `failed` as the last.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import struct
import sys
import threading
from typing import Any

_SIZES = struct.Struct(">QQ")  # bytes of the object and of the tail


def send(connection: socket.socket, message: dict[str, Any], tail: bytes = b"") -> None:
    text = json.dumps(message).encode()
    connection.sendall(_SIZES.pack(len(text), len(tail)) + text + tail)


def receive(connection: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    """The next message; None where the other side is gone."""
    sizes = _read(connection, _SIZES.size)
    if sizes is None:
        return None
    text, tail = (_read(connection, size) for size in _SIZES.unpack(sizes))
    return None if text is None or tail is None else (json.loads(text), bytes(tail))


def _read(connection: socket.socket, size: int) -> bytearray | None:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        try:
            num = connection.recv_into(view)
        except OSError:
            return None
        if not num:
            return None
        view = view[num:]
    return data


# From here on: what runs in the other environment.


def main(descriptor: str, settings: str) -> None:
    os.set_inheritable(int(descriptor), False)
    connection = socket.socket(fileno=int(descriptor))
    inbox: queue.SimpleQueue[tuple[dict[str, Any], bytes]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    try:
        try:
            engine = _make_engine(**json.loads(settings))
        except ModuleNotFoundError as error:
            send(connection, {"failed": f"{error}", "missing": error.name})
            return
        send(connection, {"ready": True})
        _serve(connection, inbox, engine)
    except Exception as error:  # told to the other side; the traceback goes to the log
        send(connection, {"failed": f"{type(error).__name__}: {error}"})
        raise


def _listen(connection: socket.socket, inbox: queue.SimpleQueue[tuple[dict[str, Any], bytes]]) -> None:
    """Ends the process, whatever it is at, when the other side is gone."""
    while (message := receive(connection)) is not None:
        inbox.put(message)
    os._exit(0)


def _make_engine(
    *, model: str, dtype: str, num_slots: int, length: int, cache_bytes: int, max_batched: int, eager: bool
) -> Any:
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    args = EngineArgs(
        model=model,
        skip_tokenizer_init=True,  # texts and tokens are the other side's business
        generation_config="vllm",
        dtype=dtype,
        enable_prompt_embeds=True,
        max_model_len=length,
        max_num_seqs=num_slots,
        max_num_batched_tokens=max_batched,
        kv_cache_memory_bytes=cache_bytes,
        enable_prefix_caching=False,  # two prompts begin alike only where their images and Q-Former texts are the same
        scheduling_policy="priority",
        async_scheduling=False,  # the logits processor reads the newest token
        logits_processors=[_make_logits_processor()],
        logprobs_mode="processed_logprobs",  # of the distribution that tokens are chosen from
        enforce_eager=eager,
        disable_log_stats=True,
    )
    return LLMEngine.from_engine_args(args)


def _serve(connection: socket.socket, inbox: queue.SimpleQueue[tuple[dict[str, Any], bytes]], engine: Any) -> None:
    """One step after another, as long as there is work; between them, what was asked for meanwhile."""
    names: dict[int, str] = {}  # vLLM's, of the requests under way
    while True:
        wait = not engine.has_unfinished_requests()
        while True:
            try:
                message, tail = inbox.get(block=wait)
            except queue.Empty:
                break
            wait = False
            if "add" in message:
                try:
                    names[message["add"]] = _add(engine, message, tail)
                except ValueError as error:
                    send(connection, {"refused": message["add"], "why": str(error)})
            else:
                gone = [number for number in message["drop"] if number in names]
                engine.abort_request([names.pop(number) for number in gone], internal=True)
                for number in gone:
                    _scores.pop(number, None)
        tokens = []
        for output in engine.step():
            number, made = int(output.request_id), output.outputs[0]
            logprobs = [step[token].logprob for token, step in zip(made.token_ids, made.logprobs, strict=True)]
            if number in _scores:
                logprobs = [_scores.pop(number)]
            tokens.append([number, list(made.token_ids), logprobs, output.finished])
            if output.finished:
                del names[number]
        if tokens:
            send(connection, {"tokens": tokens})


def _add(engine: Any, message: dict[str, Any], tail: bytes) -> str:
    import torch
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    embeds = torch.frombuffer(bytearray(tail), dtype=getattr(torch, message["dtype"])).view(message["shape"])
    params = SamplingParams(
        **message["sampling"],
        logprobs=0,  # of the chosen token alone
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        extra_args=message["shaping"] | {"number": message["add"]} if message["shaping"] else None,
    )
    name: str = engine.add_request(str(message["add"]), {"prompt_embeds": embeds}, params, priority=message["priority"])
    return name


# The log-probability of the newest token of each request whose tokens are given; noted by the logits processor, since
# behind it no other token is left.
_scores: dict[int, float] = {}


def _make_logits_processor() -> type:
    """What our requests ask of logits, and vLLM does not do, or otherwise: its own penalty sees the prompt, too."""
    import torch
    from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
    from vllm.v1.sample.logits_processor.builtin import process_dict_updates

    class Shaping(LogitsProcessor):  # type: ignore[misc]
        def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
            self._rows: dict[int, tuple[dict[str, Any], list[int]]] = {}

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: BatchUpdate | None) -> None:
            process_dict_updates(
                self._rows,
                batch_update,
                lambda params, _, ids: (params.extra_args, ids) if params.extra_args else None,
            )

        def apply(self, logits: torch.Tensor) -> torch.Tensor:
            for row, (asked, ids) in self._rows.items():
                self._shape(logits[row], asked, ids)
            return logits

        def _shape(self, logits: torch.Tensor, asked: dict[str, Any], ids: list[int]) -> None:
            """In place, (vocabulary,); `ids` have been decoded so far."""
            penalty, given = asked["repetition_penalty"], asked["given"]
            if penalty != 1.0 and ids:
                seen = torch.tensor(sorted(set(ids)), device=logits.device)
                values = logits[seen]
                logits[seen] = torch.where(values < 0, values * penalty, values / penalty)
            for sequence in asked["banned"]:
                *before, last = sequence
                if not before or ids[-len(before) :] == before:
                    logits[last] = -torch.inf
            if given:
                token = given[len(ids)]
                # Written over where a prompt is read in parts and this was not its end.
                _scores[asked["number"]] = float(logits.float().log_softmax(-1)[token])
                value = logits[token].clone()
                logits.fill_(-torch.inf)
                logits[token] = value

    return Shaping


if __name__ == "__main__":
    main(*sys.argv[1:])
