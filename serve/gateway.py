"""The HTTP side: routes, and what each of them reads and answers.

A gateway holds no model. It takes a request apart, decodes the picture, asks a replica, and names objects in what comes
back. `make_app` needs nothing of Ray, so its routes are tested without.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

import vigc
from vigc.model.conversation.grounding import Grounding
from vigc.model.conversation.policy import POLICIES, Policy
from vigc.model.weights.identity import ModelPlace
from vigc.platform.records import Conversation, CorrectionStep, Kind
from vigc.platform.schema import to_dict
from vigc.serve import bodies
from vigc.serve import jsonl as batch
from vigc.serve import openapi as documents
from vigc.serve.errors import ApiError, internal, wrong
from vigc.serve.images import ImageLoader, RequestImage
from vigc.serve.messages import KindEvent, Started
from vigc.serve.metrics import Metrics, scrape
from vigc.serve.openai import ChatRequest, ChatService, model_of
from vigc.serve.rows import RowService, ServerSentEvent, VigcRequest, check_picture, last
from vigc.serve.samples import samples

log = logging.getLogger("ray.serve")
PAGE = Path(__file__).with_name("page")
Item = TypeVar("Item")
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@dataclass(frozen=True)
class Services:
    """What the routes are made of."""

    model: ModelPlace
    rows: RowService
    chat: ChatService
    pictures: ImageLoader
    metrics: Metrics
    ready: Callable[[], Awaitable[dict[str, Any]]]  # raises ApiError while no replica is
    weights: Callable[[], str | None]  # the hash of the model's, once it is known


def make_app(parts: Services) -> FastAPI:
    """All routes. Without the middleware: see app.py."""
    app = FastAPI(title="vigc", version=vigc.__version__, docs_url=None, redoc_url=None, openapi_url=None)
    for error in (ApiError, HTTPException, RequestValidationError, MultiPartException, Exception):
        app.add_exception_handler(error, _as_answer)
    _add_page(app, parts)
    _add_state(app, parts)
    _add_vigc(app, parts)
    _add_chat(app, parts)
    documented = documents.openapi(app)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(documented)

    return app


def _add_page(app: FastAPI, parts: Services) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/page", _Fresh(directory=PAGE), name="page")

    @app.get("/samples", **documents.SAMPLES)
    async def list_samples() -> dict[str, Any]:
        shown = samples().values() if parts.rows.settings.samples else ()
        return {"samples": [one.about() for one in shown]}

    @app.get("/samples/{sample_id}.jpg", **documents.SAMPLE)
    async def sample(sample_id: str) -> Response:
        found = samples().get(sample_id) if parts.rows.settings.samples else None
        if found is None:
            raise ApiError(404, "There is no such sample; GET /samples lists them.", code="not_found")
        return Response(found.jpeg, media_type="image/jpeg", headers={"Cache-Control": "max-age=3600"})


def _add_state(app: FastAPI, parts: Services) -> None:
    created = int(time.time())

    @app.get("/healthz", **documents.HEALTH)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", **documents.READY)
    async def readyz() -> dict[str, Any]:
        return {"status": "ready", **await parts.ready()}

    @app.get("/metrics", **documents.METRICS)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(await scrape(), media_type="text/plain; version=0.0.4")

    def can_follow(policy: Policy) -> bool:
        has_beams = parts.rows.settings.engine == "reference"
        asks = policy.grounding is Grounding.ASKED
        return (policy.num_beams == 1 or has_beams) and not (asks and parts.rows.objects is None)

    def model() -> dict[str, Any]:
        settings, pack, objects = parts.rows.settings, parts.rows.pack, parts.rows.objects
        about = {
            "weights": parts.weights(),
            "image_size": parts.model.image_size,
            "prompts": {"name": pack.name, "hash": pack.hash},
            "kinds": [str(kind) for kind in Kind if kind in pack.kinds],
            "policies": [name for name, policy in POLICIES.items() if can_follow(policy)],
            "policy": settings.policy,
            "groundings": [method for method in Grounding if objects is not None or method is not Grounding.ASKED],
            "grounding": settings.grounding,
            "objects": None if objects is None else objects.vocabulary.name,
            "engine": settings.engine,
            "max_upload_bytes": settings.max_upload_bytes,
            "max_question_chars": settings.max_question_chars,
            "fetches_images": bool(settings.allow_hosts),
            "vigc": vigc.__version__,
        }
        return model_of(parts.model.name, created, about)

    @app.get("/v1/models", **documents.MODELS)
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [model()]}

    @app.get("/v1/models/{model_id:path}", **documents.MODEL)
    async def get_model(model_id: str) -> dict[str, Any]:
        if model_id != parts.model.name:
            raise ApiError(404, f"The model {model_id!r} is not here.", param="model", code="model_not_found")
        return model()


def _add_vigc(app: FastAPI, parts: Services) -> None:
    rows = parts.rows

    async def events_of(
        request: VigcRequest, picture: RequestImage, request_id: str
    ) -> AsyncGenerator[ServerSentEvent, None]:
        watch = parts.metrics.watch()
        async with aclosing(rows.events(request, picture, request_id)) as events:
            async for event in events:
                if event.name == "step":
                    watch.said()
                elif event.name == "row":
                    watch.done(sum(one["num_tokens"] for one in event.data["conversations"]))
                yield event

    async def line_of_batch(line: bytes, request_id: str) -> dict[str, Any]:
        """Its row; that of a picture that cannot be decoded says why."""
        request = bodies.parsed(line, VigcRequest)
        rows.check(request)
        picture = await parts.pictures.at(request.image)
        if picture.decoded.error_kind is not None:
            failed: dict[str, Any] = to_dict(rows.failed(request, picture))
            return failed

        async def row() -> dict[str, Any]:
            return (await last(events_of(request, picture, request_id))).data

        return await batch.patiently(row, rows.settings.answer_timeout_s)

    @app.post("/v1/vigc", **documents.VIGC)
    async def talk(http: Request) -> Response:
        request_id: str = http.state.request_id
        upload = None
        match bodies.content_type(http):
            case kind if kind in batch.TYPES:
                lines = await bodies.read_lines(http, rows.settings.max_batch_lines)
                made = batch.answers(lines, lambda line: line_of_batch(line, request_id))
                return StreamingResponse(made, media_type="application/jsonl", headers=STREAM_HEADERS)
            case "multipart/form-data":
                request, upload = await bodies.read_form(http)
            case _:
                request = await bodies.read(http, VigcRequest)
        rows.check(request)
        picture = await (parts.pictures.at(request.image) if upload is None else parts.pictures.uploaded(*upload))
        check_picture(picture)
        http.state.log = {"image_id": request.image_id or picture.decoded.sha256, "kinds": list(request.kinds)}
        events = events_of(request, picture, request_id)
        if request.stream:
            return await _stream(events, _sse)
        return JSONResponse((await last(events)).data)


def _add_chat(app: FastAPI, parts: Services) -> None:
    chat = parts.chat

    async def watched(said: AsyncGenerator[Started | KindEvent, None]) -> AsyncGenerator[Started | KindEvent, None]:
        watch = parts.metrics.watch()
        async with aclosing(said):
            async for event in said:
                news = event.news if isinstance(event, KindEvent) else None
                if isinstance(news, CorrectionStep):
                    watch.said()
                elif isinstance(news, Conversation):
                    watch.done(news.num_tokens)
                yield event

    @app.post("/v1/chat/completions", **documents.CHAT)
    async def complete(http: Request) -> Response:
        request = await bodies.read(http, ChatRequest)
        chat.check(request)
        picture = await parts.pictures.at(request.image())
        check_picture(picture)
        http.state.log = {"image_id": picture.decoded.sha256, "kinds": [request.kind]}
        said = watched(chat.said(request, picture))
        request_id: str = http.state.request_id
        if request.stream:
            return await _stream(chat.chunks(said, request, request_id), _data, end="data: [DONE]\n\n")
        return JSONResponse(await chat.completion(said, request_id))


async def _stream(
    items: AsyncGenerator[Item, None], write: Callable[[Item | ApiError], str], end: str = ""
) -> StreamingResponse:
    """A stream of events whose first one is there, so that what cannot be answered at all has a status of its own."""
    first = await anext(items)

    async def body() -> AsyncGenerator[str, None]:
        async with aclosing(items):
            try:
                yield write(first)
                async for item in items:
                    yield write(item)
            except ApiError as error:
                yield write(error)
            except Exception as error:
                log.exception("A fault in a stream: %s", error)
                yield write(internal())
            else:
                yield end

    return StreamingResponse(body(), media_type="text/event-stream", headers=STREAM_HEADERS)


class _Fresh(StaticFiles):
    """Files that a browser asks for anew: modules of two versions do not go together."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _sse(event: ServerSentEvent | ApiError) -> str:
    name, data = ("error", event.content) if isinstance(event, ApiError) else (event.name, event.data)
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def _data(chunk: dict[str, Any] | ApiError) -> str:
    content = chunk.content if isinstance(chunk, ApiError) else chunk
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


async def _as_answer(http: Request, error: Exception) -> JSONResponse:
    if isinstance(error, ApiError):
        http.state.log = {**getattr(http.state, "log", {}), "outcome": error.body.code}
        return error.response()
    if isinstance(error, MultiPartException):
        return wrong(f"The form cannot be read: {error.message}").response()
    if isinstance(error, HTTPException):
        codes = {404: "not_found", 405: "method_not_allowed"}
        code = codes.get(error.status_code, "invalid_request")
        answer = ApiError(error.status_code, str(error.detail), code=code).response()
        answer.headers.update(error.headers or {})
        return answer
    if isinstance(error, RequestValidationError):
        return wrong(str(error.errors()[0]["msg"])).response()
    return internal().response()
