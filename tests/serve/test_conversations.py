"""POST /v1/vigc: an image becomes a row of the data set."""

from __future__ import annotations

import asyncio
import json

import pyarrow as pa
import pytest
from local_service import data_uri, sse

from vigc.jobs.generate.worker import Worker, WorkerSettings
from vigc.model import embedded
from vigc.model.conversation.grounding import Grounding
from vigc.model.conversation.image import ConversationSettings
from vigc.model.conversation.policy import make_policy
from vigc.model.engines.settings import EngineSettings
from vigc.model.prompts import load_pack
from vigc.platform.images.decode import decode_batch
from vigc.platform.quality.presence import NameObjects
from vigc.platform.records import Kind
from vigc.platform.schema import ROW, row_from_dict, to_dict
from vigc.platform.sources import open_source
from vigc.platform.vocabulary import vocabulary_of
from vigc.serve.samples import samples


def ask(client, **body):
    return client.post("/v1/vigc", json=body)


def test_a_row_has_the_schema_of_the_data_set(client, uri):
    row = ask(client, image=uri, kinds=["detail", "conversation"]).json()

    assert list(row) == ROW.names
    assert to_dict(row_from_dict(row)) == row
    assert pa.Table.from_pylist([row], schema=ROW).to_pylist() == [row]
    assert [spoken["kind"] for spoken in row["conversations"]] == ["detail", "conversation"]
    assert (row["status"], row["width"], row["height"], row["image_id"]) == ("ok", 448, 448, row["sha256"])


def test_the_document_names_the_columns_of_a_row(client):
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert list(schemas["Row"]["properties"]) == ROW.names


@pytest.fixture(scope="module")
def job_rows(scenes):
    """What the stages of `vigc generate` make of a folder of scenes: decode, the actor's class, objects."""
    source = open_source(str(scenes))
    manifest = next(iter(source.tables())).slice(0, 3)
    settings = WorkerSettings(
        EngineSettings(model=str(embedded.PATH), device="cpu", num_slots=8, num_threads=2),
        ConversationSettings(
            load_pack(),
            make_policy("paper", temperature=0.7, grounding=Grounding.ASKED),
            (Kind.CONVERSATION, Kind.DETAIL, Kind.REASONING),
            seed=3,
        ),
        pass_number="001",
        vocabulary=vocabulary_of(source.categories()),
    )
    worker = Worker(settings)
    batch = decode_batch(manifest, worker._engine.image_size)

    async def made():
        return [table async for table in worker(batch)]

    (table,) = asyncio.run(made())
    worker._engine.close()
    return NameObjects(vocabulary_of(source.categories()))(table).to_pylist()


def measures(row):
    """Log-probabilities of all steps and the grounding of all sentences, taken out of the row."""
    spoken = row["conversations"]
    sentences = [one for c in spoken for one in (*c["sentences"], *c["vig_sentences"])]
    grounding = [value for one in sentences if (value := one.pop("grounding")) is not None]
    assert grounding
    return [step.pop("mean_logprob") for c in spoken for step in c["steps"]] + grounding


def test_a_row_of_the_endpoint_equals_the_row_of_a_run(client, job_rows):
    """Sampled at a temperature, so that seeds have to agree as well."""
    assert any(
        sentence["objects_absent"] for row in job_rows for c in row["conversations"] for sentence in c["sentences"]
    )
    for row in job_rows:
        with open(row["uri"], "rb") as file:
            image = data_uri(file.read())
        body = {
            "image_id": row["image_id"],
            "objects": row["objects"],
            "seed": 3,
            "temperature": 0.7,
            "grounding": "asked",
        }
        found = ask(client, image=image, **body).json()
        # The last bits go with who else is decoded.
        assert measures(found) == pytest.approx(measures(row), abs=1e-3)
        assert found | {"uri": row["uri"], "pass": "001"} == row


def test_what_is_said_is_told_as_it_is_said(client, uri, jpeg):
    objects = samples()["scene-2"].about()["objects"]
    body = {"image": uri, "kinds": ["detail"], "objects": objects}
    row = ask(client, **body).json()
    events = sse(ask(client, **body, stream=True).text)

    names = [name for name, _ in events]
    (spoken,) = row["conversations"]
    assert names == ["image", "question", *["step"] * len(spoken["steps"]), "conversation", "row"]
    told = dict(events)
    assert told["row"] == row
    assert told["conversation"] == spoken
    assert told["question"]["vig_sentences"] == spoken["vig_sentences"]
    steps = [data for name, data in events if name == "step"]
    assert [step["number"] for step in steps] == list(range(1, len(steps) + 1))
    assert steps[-1]["answer"] == spoken["answer"]
    assert [sentence for step in steps for sentence in step["sentences"]] == spoken["sentences"]


def test_a_form_with_a_file_says_the_same_as_json(client, uri, jpeg):
    by_json = ask(client, image=uri, kinds=["conversation"], image_id="a").json()
    files = {"image": ("holiday.jpg", jpeg, "image/jpeg")}
    by_form = client.post("/v1/vigc", data={"kinds": "conversation", "image_id": "a"}, files=files).json()

    assert by_form["uri"] == "holiday.jpg"
    assert by_form | {"uri": ""} == by_json


@pytest.mark.parametrize("kinds", ["conversation, detail", '["conversation", "detail"]', ["conversation", "detail"]])
def test_a_form_has_its_kinds_with_commas_as_json_or_repeated(client, uri, kinds):
    objects = [{"category": "cup", "bbox": [0, 0, 10, 10]}]
    form = {"kinds": kinds, "objects": json.dumps(objects), "captions": '["A, B"]', "policy": "lean"}
    row = client.post("/v1/vigc", data=form, files={"image": (None, uri)}).json()

    assert [spoken["kind"] for spoken in row["conversations"]] == ["conversation", "detail"]
    assert (row["objects"][0]["category"], row["captions"]) == ("cup", ["A, B"])


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("kinds", "poem", "kinds.0"),
        ("kinds", "[" * 100_000, "kinds"),
        ("objects", "cup", "objects"),
        ("objects", "[" * 100_000, "objects"),
        ("objects", '[{"category": "cup"}]', "objects.0.bbox"),
        ("captions", "a cup", "captions"),
        ("colour", "blue", "colour"),
        ("seed", "-1", "seed"),
    ],
)
def test_a_wrong_field_of_a_form_is_refused_by_name(client, jpeg, field, value, param):
    files = {"image": ("a.jpg", jpeg, "image/jpeg")}
    answer = client.post("/v1/vigc", data={field: value}, files=files)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    files["photo"] = files.pop("image")
    assert client.post("/v1/vigc", files=files).json()["error"]["param"] == "image"


def test_a_question_is_answered_instead_of_asked(client, uri):
    row = ask(client, image=uri, kinds=["conversation"], question="How many cups are there?").json()
    (spoken,) = row["conversations"]

    assert spoken["question"] == "How many cups are there?"
    assert spoken["answer"]
    assert spoken["vig_answer"] == ""


def test_an_image_that_cannot_be_used_says_why(client, jpeg):
    cut, text = ask(client, image=data_uri(jpeg[:300])), ask(client, image=data_uri(b"hello there"))

    assert (cut.status_code, cut.json()["error"]["code"]) == (400, "truncated")
    assert (text.status_code, text.json()["error"]["code"]) == (400, "not_an_image")
    assert text.json()["error"]["param"] == "image"


def test_json_lines_in_give_json_lines_out_in_their_order(client, uri, jpeg):
    lines = [
        {"image": uri, "kinds": ["conversation"], "image_id": "one"},
        {"image": data_uri(jpeg[:300]), "image_id": "cut"},
        {"image": "ftp://x"},
        {"image": uri, "kinds": ["conversation"], "image_id": "two", "policy": "lean"},
    ]
    body = "\n".join(map(json.dumps, lines)) + "\n\nnonsense\n"
    answer = client.post("/v1/vigc", content=body, headers={"content-type": "application/jsonl"})
    made = [json.loads(line) for line in answer.text.splitlines()]

    assert [one.get("image_id") for one in made] == ["one", "cut", None, "two", None]
    assert [one["status"] for one in made if "status" in one] == ["ok", "failed", "ok"]
    assert made[1]["error"]["kind"] == "truncated"
    assert [(one["line"], one["error"]["code"]) for one in made if "line" in one] == [
        (3, "invalid_value"),
        (5, "json_invalid"),
    ]
    assert made[3]["conversations"][0]["vig_answer"] == ""


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"policy": "best"}, "policy"),
        ({"policy": "shipped"}, "policy"),
        ({"kinds": []}, "kinds"),
        ({"kinds": ["poem"]}, "kinds.0"),
        ({"question": "x" * 2001}, "question"),
        ({"question": "  "}, "question"),
        ({"question": "\ud800"}, "question"),
        ({"\ud800": "blue"}, None),
        ({"temperature": -1}, "temperature"),
        ({"seed": 2**63}, "seed"),
        ({"max_steps": 65}, "max_steps"),
        ({"objects": [{"category": "cup", "bbox": [0, 0, 1]}]}, "objects.0.bbox"),
        ({"objects": [{"category": "cup", "bbox": [0, 0, 1, float("nan")]}]}, "objects.0.bbox.3"),
        ({"colour": "blue"}, "colour"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused_by_name(client, uri, body, param):
    answer = client.post(
        "/v1/vigc", content=json.dumps({"image": uri, **body}), headers={"content-type": "application/json"}
    )

    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_a_prompt_that_the_engine_has_no_room_for_is_the_caller_s_to_mend(client, uri):
    answer = ask(client, image=uri, question="why " * 499, kinds=["conversation"])

    assert answer.status_code == 400
    assert "tokens" in answer.json()["error"]["message"]


def test_an_answer_ends_after_as_many_steps_and_tokens_as_asked(client, uri):
    row = ask(client, image=uri, kinds=["detail"], max_steps=2).json()
    assert len(row["conversations"][0]["steps"]) == 2
    row = ask(client, image=uri, kinds=["detail"], max_tokens=150).json()
    assert row["conversations"][0]["num_tokens"] <= 150
