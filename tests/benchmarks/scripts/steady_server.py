"""A server that answers every chat completion after the same time, however many are under way, and costs little.

python tests/benchmarks/scripts/steady_server.py [--port 8123] [--seconds 2]

For `vigc bench endpoint`: a server on a GPU of its own leaves this machine's cores alone and answers many requests as
quickly as one. Its answers are the same few sentences, so that nothing is measured but who asks.
"""

from __future__ import annotations

import argparse
import asyncio
import json

from aiohttp import web

MODEL = "steady"
QUESTION = "Question: What can be seen in this image?\nAnswer: A table stands by a window."
ANSWER = " ".join(["A wooden table stands by a tall window.", "Two chairs are beside it.", "The light is soft."] * 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each answer takes")
    given = parser.parse_args()
    web.run_app(application(given.seconds), host="127.0.0.1", port=given.port, print=None)


def application(seconds: float) -> web.Application:
    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def complete(request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        await asyncio.sleep(seconds)
        (text,) = (part["text"] for part in body["messages"][0]["content"] if part["type"] == "text")
        said = QUESTION if "Question:" in text else ANSWER
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        usage = {"prompt_tokens": 400, "completion_tokens": len(said.split())}
        return web.json_response({"object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage})

    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/chat/completions", complete)
    return app


if __name__ == "__main__":
    main()
