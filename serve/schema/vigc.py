"""The body of POST /v1/vigc: one image, and what is said of it. FastAPI reads requests with these models."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import UploadFile
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, Json
from pydantic.dataclasses import dataclass
from pydantic_core import from_json

from vigc.model.conversation.grounding import Grounding
from vigc.model.conversation.policy import POLICIES
from vigc.platform.records import Kind, Row

DEFAULT_KINDS = (Kind.CONVERSATION, Kind.DETAIL, Kind.REASONING)  # those of `vigc generate`
MAX_STEPS, MAX_TOKENS = 64, 4096


class AnnotatedObject(BaseModel):
    """An object in the image."""

    model_config = ConfigDict(extra="forbid")

    category: Annotated[str, Field(min_length=1, max_length=100)]
    bbox: Annotated[list[FiniteFloat], Field(min_length=4, max_length=4, description="x, y, width, height in pixels")]
    is_crowd: bool = False


Objects = Annotated[
    list[AnnotatedObject],
    Field(max_length=1000, description="All objects in the image; an object named beside them counts as absent."),
]
Captions = Annotated[list[Annotated[str, Field(max_length=2000)]], Field(max_length=100)]


class DecodingOptions(BaseModel):
    """How conversations are decoded; the options that both APIs share."""

    policy: Annotated[
        str | None, Field(description=f"One of {', '.join(POLICIES)}. The service's own unless given.")
    ] = None
    temperature: Annotated[FiniteFloat | None, Field(ge=0, le=2, description="0 decodes greedily.")] = None
    top_p: Annotated[FiniteFloat | None, Field(gt=0, le=1)] = None
    seed: Annotated[int | None, Field(ge=0, lt=2**63, description="Seed for sampling; 0 unless given.")] = None
    grounding: Annotated[
        Grounding | None, Field(description="How to measure how much each sentence depends on the image.")
    ] = None


class VigcOptions(DecodingOptions):
    """Everything about a request but its image."""

    model_config = ConfigDict(extra="forbid")

    image_id: Annotated[
        str | None,
        Field(min_length=1, max_length=1024, description="Sampling depends on it. The file's sha256 unless given."),
    ] = None
    kinds: Annotated[list[Kind], Field(min_length=1, max_length=len(Kind))] = list(DEFAULT_KINDS)
    question: Annotated[
        str | None, Field(min_length=1, description="VIC answers it, once for each kind. VIG asks one unless given.")
    ] = None
    max_steps: Annotated[int | None, Field(ge=1, le=MAX_STEPS, description="Sentences in an answer at most.")] = None
    max_tokens: Annotated[
        int | None, Field(ge=1, le=MAX_TOKENS, description="Tokens decoded for each conversation at most.")
    ] = None
    objects: Objects | None = None
    captions: Captions | None = None
    stream: Annotated[bool, Field(description="Answer with server-sent events instead of the row alone.")] = False


class VigcRequest(VigcOptions):
    """One image to make a row of, as JSON."""

    image: Annotated[str, Field(description="A data URI or an http(s) address.")]


def _listed(kinds: Any) -> Any:
    """A form's one field of kinds: a JSON list, or names with commas between them. The field may also be repeated."""
    if len(kinds) != 1:
        return kinds
    return from_json(kinds[0]) if kinds[0].lstrip().startswith("[") else [kind.strip() for kind in kinds[0].split(",")]


class VigcForm(VigcOptions):
    """The same as multipart/form-data: the image may be a file; objects and captions are JSON."""

    image: Annotated[UploadFile | str, Field(description="A file, a data URI or an http(s) address.")]
    kinds: Annotated[list[Kind], BeforeValidator(_listed), Field(min_length=1, max_length=len(Kind))] = list(
        DEFAULT_KINDS
    )
    objects: Json[Objects | None] = None
    captions: Json[Captions | None] = None


# The answer. As in tables, the field `pass_` is called pass.
VigcRow = dataclass(Row, frozen=True, config=ConfigDict(alias_generator=lambda name: name.rstrip("_")))
