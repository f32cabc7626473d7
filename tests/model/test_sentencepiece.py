"""A model whose words are SentencePiece's, as Vicuna's and Llama's are published: `tokenizer.model` and no other file.

SentencePiece itself is the judge of what tokens a text has and what text tokens are.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor
from sentencepiece_model import NUM_WORDS, vocabulary_file, write_sentencepiece_model

from vigc.jobs.generate.config import GenerateConfig
from vigc.jobs.generate.plan import make_plan
from vigc.model.completion import Completion, Request
from vigc.model.engines.base import NetworkEngine
from vigc.model.engines.continuous.engine import ContinuousEngine
from vigc.model.engines.detokenizer import Pieces, Transcript
from vigc.model.engines.reference import ReferenceEngine
from vigc.model.network import Network, load_network
from vigc.model.weights.identity import Family, find_model
from vigc.platform.records import ModelError, Stop

EOS = 2
WORDPIECES = ["[CLS]", "the", "red", "a", "##x", "##e", "[SEP]"]
TEXTS = {
    "latin": "A red car stands at the left. Behind it, there is a naïve façade.",
    "emoji": "A cat 😀 and an astronaut 🧑‍🚀 wave 👋🏽, with flags 🇨🇭🇯🇵.",
    "chinese": "桌子上有两只猫。一条狗在看。",
    "japanese": "机の上に猫が二匹います。",
    "korean": "책상 위에 고양이 두 마리가 있습니다.",
    "arabic": "هناك قطتان على الطاولة. الكلب ينظر.",
    "hebrew": "יש שני חתולים על השולחן.",
    "bytes": "ꙮ 𓀀 𝔘 ⸘ and ᚠᛇᚻ, which no word of the vocabulary holds.",
    "lines": "One.\n\nTwo:\n- three\n- 😀\n",
}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return load_network(write_sentencepiece_model(tmp_path_factory.mktemp("model") / "vicuna"), device="cpu")


@pytest.fixture(scope="module")
def judge() -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(vocabulary_file()))


@pytest.fixture(scope="module")
def reference(network: Network) -> Iterator[ReferenceEngine]:
    engine = ReferenceEngine(network)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def continuous(network: Network) -> Iterator[ContinuousEngine]:
    engine = ContinuousEngine(network, num_slots=4)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def pieces(network: Network) -> Pieces:
    return Pieces(network.tokenizer)


def decoded(pieces: Pieces, ids: list[int], *, max_tokens: int = 10_000) -> Iterator[tuple[str, Completion | None]]:
    """The text after each token, and the completion once there is one."""
    transcript = Transcript(pieces, Request(qformer_text="", prompt="", max_tokens=max_tokens))
    for token in ids:
        done = transcript.add(token, -1.0, EOS)
        yield transcript.text, done


def test_the_vocabulary_is_read_from_tokenizer_model_alone(network: Network) -> None:
    assert len(network.tokenizer) == NUM_WORDS
    assert (network.bos_id, network.eos_id) == (1, EOS)
    assert network.qformer_tokenizer.convert_ids_to_tokens(network.qformer_row("the red axe")) == WORDPIECES


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_prompt_has_the_tokens_that_sentencepiece_gives_it(
    network: Network, judge: SentencePieceProcessor, text: str
) -> None:
    assert network.prompt_ids(text) == [1, *judge.encode(text)]
    ids, ends = network.prompt_ids_and_ends(text)
    assert ids == network.prompt_ids(text)
    assert ends == sorted(ends)
    assert ends[-1] == len(text)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_grows_by_whole_characters_and_ends_as_sentencepiece_reads_it(
    pieces: Pieces, judge: SentencePieceProcessor, text: str
) -> None:
    ids = judge.encode(text)
    for so_far, _ in decoded(pieces, ids):
        assert f" {text}".startswith(so_far)
    *_, (whole, done) = decoded(pieces, [*ids, EOS])
    assert done is not None
    assert (done.stop, done.text, whole) == (Stop.END, f" {text}", f" {text}")


@pytest.mark.parametrize("length", range(1, 12))
def test_what_was_complete_stays_when_an_answer_is_cut_within_a_character(
    pieces: Pieces, judge: SentencePieceProcessor, length: int
) -> None:
    ids = judge.encode("ꙮ\n𓀀é𝔘")[:length]
    *_, (_, done) = decoded(pieces, ids, max_tokens=length)
    assert done is not None
    assert done.text == f" {judge.decode(ids)}"


def test_bytes_that_are_no_character_are_marked_one_by_one(pieces: Pieces, judge: SentencePieceProcessor) -> None:
    first = judge.piece_to_id("<0x00>")
    rng = random.Random(3)
    for _ in range(300):
        # Bytes of long characters, of short ones, and words between them.
        some = [0xF0, 0x9F, 0x98, 0x80, 0xE2, 0x82, 0xAC, 0xC3, 0xA9, 0x0A, 0x41, 0xFF]
        ids = [first + rng.choice(some) if rng.random() < 0.8 else rng.randrange(259, 4000) for _ in range(12)]
        *_, (_, done) = decoded(pieces, ids, max_tokens=len(ids))
        assert done is not None
        assert done.text == judge.decode([judge.piece_to_id("▁a"), *ids])[1:]


def ask(engine: NetworkEngine, requests: list[Request]) -> list[Completion]:
    async def one(request: Request, index: int) -> Completion:
        pixels = np.random.default_rng(index).integers(0, 256, (28, 28, 3), dtype=np.uint8)
        async with engine.image(pixels) as image:
            return await engine.complete(image, request)

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(one(request, i) for i, request in enumerate(requests)))

    return asyncio.run(all_of_them())


def test_both_engines_say_the_same_behind_every_script(
    reference: ReferenceEngine, continuous: ContinuousEngine
) -> None:
    """The weights are random, so the answers are a medley of all scripts."""
    requests = [Request(qformer_text="the red", prompt=text, max_tokens=40) for text in TEXTS.values()]
    found, expected = ask(continuous, requests), ask(reference, requests)
    assert [(one.text, one.stop, one.num_tokens) for one in found] == [
        (one.text, one.stop, one.num_tokens) for one in expected
    ]
    assert any(not one.text.isascii() for one in found)


def test_both_engines_say_the_same_when_they_can_say_bytes_only(
    network: Network, judge: SentencePieceProcessor, reference: ReferenceEngine, continuous: ContinuousEngine
) -> None:
    """Behind prompts that end in bytes, where the seam between old and new is inside a row of them."""
    head = network.language_model.lm_head.weight
    kept = head.detach().clone()
    first = judge.piece_to_id("<0x00>")
    spoken = [first + byte for byte in (0xF0, 0x9F, 0x98, 0x80, 0xC3, 0xA9, 0x0A, 0x41)]
    others = [token for token in range(NUM_WORDS) if token not in spoken]
    try:
        head[others] = 0
        head[spoken] *= 50
        requests = [
            Request(qformer_text="the", prompt=f"Say {text}", max_tokens=15)
            for text in ("ꙮ", "𓀀𝔘", "line\n", "word", "😀")
        ]
        found, expected = ask(continuous, requests), ask(reference, requests)
    finally:
        head[:] = kept
    assert [one.text for one in found] == [one.text for one in expected]
    assert any("\n" in one.text or "é" in one.text for one in found)


def test_a_word_that_is_not_to_be_said_is_not_said_behind_a_quote_either(
    network: Network, reference: ReferenceEngine, continuous: ContinuousEngine
) -> None:
    request = Request(qformer_text="the", prompt='"', max_tokens=12)
    (free,) = ask(reference, [request])
    word = free.text.split()[0]
    assert word
    quiet = replace(request, suppress=(word,))
    for engine in (reference, continuous):
        assert word not in ask(engine, [quiet])[0].text


def test_scores_are_the_same_and_end_where_characters_do(
    reference: ReferenceEngine, continuous: ContinuousEngine
) -> None:
    async def score(engine: NetworkEngine) -> list[Any]:
        async with engine.image(np.zeros((28, 28, 3), dtype=np.uint8)) as image:
            return [await engine.score(image, "Say:", f" {text}") for text in TEXTS.values()]

    found, expected = asyncio.run(score(continuous)), asyncio.run(score(reference))
    for text, one, other in zip(TEXTS.values(), found, expected, strict=True):
        assert [token.end for token in one] == [token.end for token in other]
        assert np.allclose([token.logprob for token in one], [token.logprob for token in other], atol=1e-3)
        assert one[-1].end == len(text) + 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sentencepiece_model(tmp_path / "vicuna")


def test_a_whole_folder_is_found_good_before_anything_is_loaded(folder: Path) -> None:
    assert find_model(str(folder)).family is Family.INSTRUCTBLIP


def point(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 493443\n")


def name_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (
            lambda folder: (folder / "tokenizer.model").unlink(),
            r"lacks the language model's tokenizer \(tokenizer.json",
        ),
        (lambda folder: (folder / "tokenizer.model").write_bytes(b"no"), "tokenizer.model: not a SentencePiece model"),
        (lambda folder: point(folder / "tokenizer.model"), "git's note about a large file"),
        (lambda folder: point(folder / "model.safetensors"), "git's note about a large file"),
        (lambda folder: shutil.rmtree(folder / "qformer_tokenizer"), r"lacks the Q-Former's tokenizer \(qformer_tok"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "lacks the image processor"),
        (name_a_shard, r"lacks 1 files of weights \(model-00002-of-00002.safetensors\)"),
    ],
)
def test_what_a_folder_lacks_is_said_before_ray_starts(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], Any], complaint: str
) -> None:
    spoil(folder)
    config = GenerateConfig(images=str(tmp_path / "not-read"), out=str(tmp_path / "data"), model=str(folder))
    with pytest.raises(ModelError, match=complaint) as caught:
        make_plan(config)
    assert str(folder) in str(caught.value)


def test_an_installation_without_sentencepiece_is_told_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ModelError, match="pip install sentencepiece"):
        find_model(str(folder))


def test_a_qformer_tokenizer_without_words_is_refused(folder: Path) -> None:
    (folder / "qformer_tokenizer" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    with pytest.raises(ModelError, match="Q-Former tokenizer knows no words"):
        load_network(folder, device="cpu")
