"""What /openapi.json says of each route: written beside the models that the routes read with, so that it stays true."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from vigc.platform.records import Row
from vigc.serve.errors import ErrorAnswer
from vigc.serve.openai import ChatRequest
from vigc.serve.rows import VigcRequest

_JSON, _STREAM, _LINES = "application/json", "text/event-stream", "application/jsonl"
_REFERENCE = "#/components/schemas/{model}"
_MEANING = {
    400: "The request cannot be answered as it is.",
    401: "A key is needed, or is not known.",
    404: "There is no such thing here.",
    408: "The body did not arrive in time.",
    413: "More bytes or pixels than are taken.",
    415: "The body is of another type.",
    500: "A fault of the service's.",
    503: "The queue is full, or no replica can answer; Retry-After says when to try again.",
    504: "The answer took too long.",
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorAnswer, "description": _MEANING[status]} for status in statuses}


def _body(**schemas: str) -> dict[str, Any]:
    content = {
        kind.replace("__", "/").replace("_", "-"): {"schema": {"$ref": _REFERENCE.format(model=name)}}
        for kind, name in schemas.items()
    }
    return {"requestBody": {"required": True, "content": content}}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _answer(media_type: str, schema: dict[str, Any], description: str = "Done.") -> dict[int | str, dict[str, Any]]:
    return {200: {"description": description, "content": {media_type: {"schema": schema}}}}


_TEXT, _NUMBER, _WHOLE = {"type": "string"}, {"type": "number"}, {"type": "integer"}
_MODEL = _object(id=_TEXT, object={"const": "model"}, created=_WHOLE, owned_by=_TEXT, vigc={"type": "object"})
_SAMPLE = _object(
    id=_TEXT, image=_TEXT, width=_WHOLE, height=_WHOLE, objects={"type": "array", "items": {"type": "object"}}
)
_COMMON = (400, 401, 408, 413, 415, 500, 503, 504)

SAMPLES: dict[str, Any] = {
    "summary": "Rendered scenes to try, with boxes around all that is there",
    "responses": _answer(_JSON, _object(samples={"type": "array", "items": _SAMPLE})),
}
SAMPLE: dict[str, Any] = {
    "summary": "The picture of a sample",
    "responses": _answer("image/jpeg", {"type": "string", "format": "binary"}) | _errors(404),
}
HEALTH: dict[str, Any] = {
    "summary": "Whether the gateway lives",
    "responses": _answer(_JSON, _object(status={"const": "ok"})),
}
READY: dict[str, Any] = {
    "summary": "Whether a replica of the model can answer",
    "responses": _answer(_JSON, _object(status={"const": "ready"})) | _errors(503),
}
METRICS: dict[str, Any] = {
    "summary": "Figures for Prometheus, of all nodes, some seconds late",
    "responses": _answer("text/plain", _TEXT) | _errors(401, 500),
}
MODELS: dict[str, Any] = {
    "summary": "The model, as OpenAI lists models",
    "responses": _answer(_JSON, _object(object={"const": "list"}, data={"type": "array", "items": _MODEL}))
    | _errors(401),
}
MODEL: dict[str, Any] = {
    "summary": "The model, and under vigc what it can be asked",
    "responses": _answer(_JSON, _MODEL) | _errors(401, 404),
}
VIGC: dict[str, Any] = {
    "summary": "An image becomes a row of the data set: VIG asks and answers, VIC answers again sentence by sentence",
    "description": (
        "With stream: true, server-sent events: image, then for each kind question, step…, conversation, and last row; "
        "or error. JSON Lines in give JSON Lines out: a row for each line, in their order, or {line, error}."
    ),
    "openapi_extra": _body(
        application__json="VigcRequest", multipart__form_data="VigcForm", application__jsonl="VigcRequest"
    ),
    "responses": {
        200: {
            "description": "The row.",
            "content": {
                _JSON: {"schema": {"$ref": _REFERENCE.format(model="Row")}},
                _STREAM: {"schema": _TEXT},
                _LINES: {"schema": _TEXT},
            },
        },
        **_errors(*_COMMON),
    },
}
CHAT: dict[str, Any] = {
    "summary": "OpenAI's chat completions: the newest question about the newest picture",
    "description": "With stream: true, chunks as server-sent events, one for each sentence, and last [DONE].",
    "openapi_extra": _body(application__json="ChatRequest"),
    "responses": {
        200: {
            "description": "The answer.",
            "content": {
                _JSON: {
                    "schema": _object(
                        id=_TEXT,
                        object={"const": "chat.completion"},
                        created=_WHOLE,
                        model=_TEXT,
                        choices={"type": "array", "items": {"type": "object"}},
                        usage={"type": "object"},
                        vigc={"type": "object"},
                    )
                },
                _STREAM: {"schema": _TEXT},
            },
        },
        **_errors(404, *_COMMON),
    },
}


def openapi(app: FastAPI) -> dict[str, Any]:
    """The document. A key is asked for only where VIGC_API_KEYS is set."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    from pydantic import TypeAdapter

    _, models = models_json_schema([(VigcRequest, "validation"), (ChatRequest, "validation")], ref_template=_REFERENCE)
    row = TypeAdapter(Row).json_schema(ref_template=_REFERENCE, mode="serialization")
    schemas: dict[str, Any] = {**models["$defs"], **row.pop("$defs"), "Row": row}
    form = dict(schemas["VigcRequest"])
    picture = {"anyOf": [{"type": "string", "format": "binary"}, _TEXT]}
    schemas["VigcForm"] = {**form, "properties": {**form["properties"], "image": picture}}
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(schemas)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{}, {"key": []}]
    return document
