"""The routes: what the service reads and answers over HTTP.

FastAPI reads requests with the models in schema/ and writes /openapi.json from them. A gateway holds no model: it
decodes the image, asks a replica, and names objects in the answer. `make_app` needs nothing of Ray, so its routes are
tested without.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Form, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

import vigc
from vigc.model.conversation.grounding import Grounding
from vigc.model.conversation.policy import POLICIES
from vigc.platform.dataset.caution import OF_A_SERVICE, is_embedded
from vigc.platform.records import Kind
from vigc.serve import jsonl
from vigc.serve.chat import ChatService
from vigc.serve.conversations import ConversationService, ServerSentEvent
from vigc.serve.errors import RESPONSES, ApiError, as_response, internal, invalid, too_large
from vigc.serve.images import ImageLoader
from vigc.serve.metrics import scrape
from vigc.serve.middleware import media_type
from vigc.serve.prompted import PromptService
from vigc.serve.samples import samples
from vigc.serve.schema.openai import ChatRequest, VigcCompletion, VigcModel, VigcModels
from vigc.serve.schema.vigc import VigcForm, VigcRequest, VigcRow

log = logging.getLogger("ray.serve")
PAGE = Path(__file__).with_name("page")
FORM = "multipart/form-data"
Item = TypeVar("Item")
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
REFERENCE = "#/components/schemas/{model}"
STREAMED = {"text/event-stream": {"schema": {"type": "string"}}}


def make_app(
    conversations: ConversationService,
    images: ImageLoader,
    ready: Callable[[], Awaitable[dict[str, Any]]],
    weights: Callable[[], str | None],
) -> FastAPI:
    """All routes, without the middleware.

    Args:
        ready: the load of a replica; raises ApiError while none answers.
        weights: the hash of the model's weights, once it is known.
    """
    key = HTTPBearer(auto_error=False, description="Needed only where VIGC_API_KEYS is set.")
    app = FastAPI(
        title="vigc",
        version=vigc.__version__,
        docs_url=None,
        redoc_url=None,
        responses=RESPONSES,
        dependencies=[Security(key)],
        strict_content_type=False,
    )
    for error in (HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(error, as_response)
    _add_page(app, conversations.settings.samples)
    _add_state(app, ready)
    prompts = PromptService(conversations)
    _add_models(app, conversations, prompts, weights)
    _add_vigc(app, conversations, images)
    _add_chat(app, ChatService(conversations, conversations.chosen.place.name), prompts, images)
    return app


def _add_page(app: FastAPI, has_samples: bool) -> None:
    shown = samples() if has_samples else {}

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/page", _Fresh(directory=PAGE), name="page")

    @app.get("/samples")
    async def list_samples() -> dict[str, list[dict[str, Any]]]:
        """Rendered scenes to try, with boxes around all objects in them."""
        return {"samples": [one.about() for one in shown.values()]}

    @app.get(
        "/samples/{sample_id}.jpg",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {"schema": {}}}}},
    )
    async def sample(sample_id: str) -> Response:
        """The image of a sample."""
        if sample_id not in shown:
            raise ApiError(404, "There is no such sample; GET /samples lists them.", code="not_found")
        headers = {"Cache-Control": "max-age=3600"}
        return Response(shown[sample_id].jpeg, media_type="image/jpeg", headers=headers)


def _add_state(app: FastAPI, ready: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the gateway is alive."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> dict[str, Any]:
        """Whether a replica of the model can answer."""
        return {"status": "ready", **await ready()}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Metrics for Prometheus, of all nodes, some seconds late."""
        return PlainTextResponse(await scrape(), media_type="text/plain; version=0.0.4")


def _add_models(
    app: FastAPI, conversations: ConversationService, prompts: PromptService, weights: Callable[[], str | None]
) -> None:
    created = int(time.time())
    settings, pack, objects = conversations.settings, conversations.pack, conversations.objects
    chosen, name = conversations.chosen, conversations.chosen.place.name
    groundings = (
        [Grounding.NONE] + [Grounding.ASKED] * (objects is not None) + [Grounding.BLANK] * (chosen.endpoint is None)
    )

    def entry() -> VigcModel:
        about = {
            "weights": weights(),
            "image_size": chosen.image_form.side,
            "image_pixels": chosen.image_form.max_pixels,
            "prompts": {"name": pack.name, "hash": pack.hash},
            "kinds": [str(kind) for kind in Kind if kind in pack.kinds],
            "policies": [name for name, policy in POLICIES.items() if conversations.can_follow(policy)],
            "policy": settings.policy,
            "groundings": groundings,
            "grounding": settings.grounding,
            "objects": None if objects is None else objects.vocabulary.name,
            "engine": chosen.engine,
            "max_upload_bytes": settings.max_upload_bytes,
            "max_question_chars": settings.max_question_chars,
            "fetches_images": bool(settings.allow_hosts),
            "caution": OF_A_SERVICE if is_embedded(name) else None,  # about all images but rendered scenes
            "vigc": vigc.__version__,
        }
        return VigcModel(id=name, created=created, object="model", owned_by="vigc", vigc=about)

    def itself() -> VigcModel:
        about = {
            "weights": weights(),
            "rereads_image": True,
            "image_size": chosen.image_form.side,
            "prompts": {"name": pack.name, "hash": pack.hash},
            "engine": chosen.engine,
            "vigc": vigc.__version__,
        }
        return VigcModel(id=prompts.model, created=created, object="model", owned_by="vigc", vigc=about)

    @app.get("/v1/models")
    async def list_models() -> VigcModels:
        """The model whose answers are corrected, and the model itself, as OpenAI lists models."""
        return VigcModels(object="list", data=[entry(), *([itself()] if prompts.is_there else [])])

    @app.get("/v1/models/{model_id:path}")
    async def get_model(model_id: str) -> VigcModel:
        """The model, and under `vigc` what it can be asked."""
        if model_id == prompts.model and prompts.is_there:
            return itself()
        if model_id != name:
            raise ApiError(404, f"The model {model_id!r} is not here.", param="model", code="model_not_found")
        return entry()


async def _only_json(http: Request) -> None:
    if media_type(http.headers) not in ("application/json", ""):
        raise ApiError(415, "The body must be application/json.", code="unsupported_media_type")


def _for_bodies_of(*media_types: str) -> type[APIRoute]:
    """A route that is taken only by bodies of these types, so that one path can have several routes."""

    class Route(APIRoute):
        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            is_meant = scope["type"] == "http" and media_type(Headers(scope=scope)) in media_types
            return super().matches(scope) if is_meant else (Match.NONE, {})

    return Route


def _add_vigc(app: FastAPI, conversations: ConversationService, images: ImageLoader) -> None:
    settings = conversations.settings

    async def answer(http: Request, request: VigcRequest | VigcForm) -> Response:
        policy = conversations.check(request, request.kinds, request.question, request.max_steps)
        image = await images.load(request.image)
        image.check()
        http.state.log = {"image_id": request.image_id or image.decoded.sha256, "kinds": list(request.kinds)}
        events = conversations.events(request, policy, image, http.state.request_id)
        if request.stream:
            return await _stream(events, _sse)
        return JSONResponse(await _row(events))

    async def answer_line(line: bytes, request_id: str) -> dict[str, Any]:
        try:
            request = VigcRequest.model_validate_json(line)
        except ValidationError as error:
            raise invalid(error.errors()) from error
        policy = conversations.check(request, request.kinds, request.question, request.max_steps)
        image = await images.load(request.image)
        if image.decoded.error_kind is not None:
            return conversations.failed_row(request, image)
        return await jsonl.retry_while_full(
            lambda: _row(conversations.events(request, policy, image, request_id)), settings.answer_timeout_s
        )

    async def from_form(http: Request, request: Annotated[VigcForm, Form(media_type=FORM)]) -> Response:
        return await answer(http, request)

    async def from_lines(http: Request) -> Response:
        lines = [line for line in (await http.body()).split(b"\n") if line.strip()]
        if len(lines) > settings.max_batch_lines:
            raise too_large(f"The batch has {len(lines)} lines; at most {settings.max_batch_lines} are taken.")
        request_id: str = http.state.request_id
        answers = jsonl.answer_lines(lines, lambda line: answer_line(line, request_id))
        return StreamingResponse(answers, media_type=jsonl.TYPES[0], headers=STREAM_HEADERS)

    for types, endpoint in (((FORM,), from_form), (jsonl.TYPES, from_lines)):
        app.router.add_api_route(
            "/v1/vigc",
            endpoint,
            methods=["POST"],
            route_class_override=_for_bodies_of(*types),
            response_model=None,
            include_in_schema=False,  # the route below describes all three
        )

    form = VigcForm.model_json_schema(ref_template=REFERENCE)
    other_bodies = {
        FORM: {"schema": {name: value for name, value in form.items() if name != "$defs"}},
        jsonl.TYPES[0]: {"schema": {"$ref": REFERENCE.format(model="VigcRequest")}},
    }

    @app.post(
        "/v1/vigc",
        response_model=VigcRow,
        responses={200: {"content": {**STREAMED, jsonl.TYPES[0]: {"schema": {"type": "string"}}}}},
        dependencies=[Depends(_only_json)],
        openapi_extra={"requestBody": {"content": other_bodies}},
    )
    async def make_row(http: Request, request: VigcRequest) -> Response:
        """Make an image a row of the data set: VIG asks and answers, VIC answers again sentence by sentence.

        With `stream: true` the answer is server-sent events: image, then for each kind question, step… and
        conversation, and last row; or error. JSON Lines are answered by JSON Lines: a row for each line, in their
        order, or {line, error}.
        """
        return await answer(http, request)


def _add_chat(app: FastAPI, chat: ChatService, prompts: PromptService, images: ImageLoader) -> None:
    @app.post(
        "/v1/chat/completions",
        response_model=VigcCompletion,
        responses={200: {"content": STREAMED}},
        dependencies=[Depends(_only_json)],
    )
    async def complete(http: Request, request: ChatRequest) -> Response:
        """OpenAI's chat completions: answer the newest question about the newest image.

        With `stream: true` the answer is chunks as server-sent events, one for each sentence, and last [DONE].
        """
        if request.model == prompts.model and prompts.is_there:
            asked = prompts.check(request)
            image = await images.load(request.image())
            image.check()
            http.state.log = {"image_id": image.decoded.sha256}
            events = prompts.events(asked, image, logprobs=bool(request.logprobs))
            return JSONResponse(await prompts.completion(events, http.state.request_id))
        policy = chat.check(request)
        image = await images.load(request.image())
        image.check()
        http.state.log = {"image_id": image.decoded.sha256, "kinds": [request.kind]}
        request_id: str = http.state.request_id
        events = chat.events(request, policy, image)
        if request.stream:
            return await _stream(chat.chunks(events, request, request_id), _data, end="data: [DONE]\n\n")
        return JSONResponse(await chat.completion(events, request_id))


async def _row(events: AsyncGenerator[ServerSentEvent, None]) -> dict[str, Any]:
    """The last event's data: the row, for a client that wants nothing else."""
    row: dict[str, Any] = {}
    async with aclosing(events):
        async for event in events:
            row = event.data
    return row


async def _stream(
    items: AsyncGenerator[Item, None], write: Callable[[Item | ApiError], str], end: str = ""
) -> StreamingResponse:
    """A stream of events. It waits for the first one, so that an early failure still has its HTTP status."""
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
    """Files that a browser asks for anew each time: modules of two versions do not work together."""

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
