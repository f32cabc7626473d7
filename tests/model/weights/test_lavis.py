"""LAVIS files: every key accounted for, in both directions, or nothing loaded."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from model_shapes import lavis_shapes, lavis_state, on_meta, tiny
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration

from vigc.model import embedded
from vigc.model.benchmarks.shapes import vicuna
from vigc.model.network import Network, load_network
from vigc.model.weights.lavis import Fallback, Variant, export_lavis, import_lavis, load_lavis, read_lavis, write_lavis
from vigc.platform.records import ModelError

State = dict[str, Tensor]


@pytest.fixture
def own() -> Network:
    """A network that a test may change."""
    return load_network(embedded.PATH, device="cpu")


def config_of(network: Network) -> InstructBlipConfig:
    config: InstructBlipConfig = network.model.config
    return config


def weights_of(network: Network) -> State:
    return {name: tensor.clone() for name, tensor in network.model.state_dict().items()}


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def plain_qformer(
    state: State, queries: Tensor, ids: Tensor, mask: Tensor, image: Tensor, num_heads: int, eps: float
) -> Tensor:
    """The Q-Former written down from the papers (BERT, BLIP-2 §3.1, InstructBLIP §2.3), on LAVIS's names."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + eps)
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def attend(name: str, x: Tensor, source: Tensor, allowed: Tensor) -> Tensor:
        def heads(which: str, y: Tensor) -> Tensor:
            return linear(f"{name}.self.{which}", y).unflatten(-1, (num_heads, -1)).transpose(1, 2)

        query, key, value = heads("query", x), heads("key", source), heads("value", source)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        scores = scores.masked_fill(~allowed[:, None, None, :], -torch.inf)
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        return norm(f"{name}.output.LayerNorm", linear(f"{name}.output.dense", mixed) + x)

    def feed_forward(layer: str, suffix: str, x: Tensor) -> Tensor:
        inner = functional.gelu(linear(f"{layer}.intermediate{suffix}.dense", x))
        return norm(f"{layer}.output{suffix}.LayerNorm", linear(f"{layer}.output{suffix}.dense", inner) + x)

    table = "Qformer.bert.embeddings"
    text = state[f"{table}.word_embeddings.weight"][ids] + state[f"{table}.position_embeddings.weight"][: ids.shape[1]]
    num = queries.shape[1]
    x = norm(f"{table}.LayerNorm", torch.cat([queries.expand(len(ids), -1, -1), text], dim=1))
    allowed = torch.cat([torch.ones(len(ids), num), mask], dim=1).bool()
    everything = torch.ones(image.shape[:2]).bool()
    number = 0
    while f"Qformer.bert.encoder.layer.{number}.attention.self.query.weight" in state:
        layer = f"Qformer.bert.encoder.layer.{number}"
        x = attend(f"{layer}.attention", x, x, allowed)
        seen, read = x[:, :num], x[:, num:]
        if f"{layer}.crossattention.self.query.weight" in state:
            seen = attend(f"{layer}.crossattention", seen, image, everything)
        x = torch.cat([feed_forward(layer, "_query", seen), feed_forward(layer, "", read)], dim=1)
        number += 1
    return x[:, :num]


def test_a_qformer_written_from_the_papers_gives_the_same_outputs_from_the_same_file() -> None:
    torch.manual_seed(0)
    config = tiny()
    state = lavis_state(lavis_shapes(config))
    model = InstructBlipForConditionalGeneration(config).eval()
    tensors = import_lavis(state, config)
    assert not model.load_state_dict(tensors, strict=False).unexpected_keys
    ids = torch.randint(0, 40, (3, 9))
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 4:] = 0
    image = torch.randn(3, 5, 12)
    with torch.no_grad():
        ours = model.qformer(
            input_ids=ids,
            attention_mask=torch.cat([torch.ones(3, 5, dtype=torch.long), mask], dim=1),
            query_embeds=model.query_tokens.expand(3, -1, -1),
            encoder_hidden_states=image,
            encoder_attention_mask=torch.ones(3, 5, dtype=torch.long),
        ).last_hidden_state[:, :5]
    theirs = plain_qformer(state, state["query_tokens"], ids, mask, image, 4, config.qformer_config.layer_norm_eps)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("size", "trained"), [("7b", 188_834_560), ("13b", 189_622_016)])
def test_the_real_shapes_go_to_transformers_and_back_without_losing_a_key(size: str, trained: int) -> None:
    config = vicuna(size)
    shapes = lavis_shapes(config)
    assert sum(key.startswith("Qformer.") for key in shapes) == 329
    assert (
        sum(math.prod(s) for k, s in shapes.items() if not k.startswith("ln_") and "position_ids" not in k) == trained
    )
    shapes |= lavis_shapes(config, frozen=True)
    tensors = import_lavis(lavis_state(shapes, on_meta), config)
    with torch.device("meta"):
        model = InstructBlipForConditionalGeneration(config)
    assert {name: t.shape for name, t in tensors.items()} == {n: t.shape for n, t in model.state_dict().items()}
    back = {key: tuple(tensor.shape) for key, tensor in export_lavis(tensors).items()}
    assert back == {key: shape for key, shape in shapes.items() if "inv_freq" not in key}


def test_values_survive_the_way_there_and_back() -> None:
    torch.manual_seed(1)
    state = lavis_state(lavis_shapes(tiny(), frozen=True))
    learnt = {key: tensor for key, tensor in state.items() if "inv_freq" not in key}
    assert same(export_lavis(import_lavis(state, tiny())), learnt)


def test_the_vision_models_split_bias_becomes_one_with_zeros_for_the_keys() -> None:
    state = lavis_state(lavis_shapes(tiny(), frozen=True))
    bias = import_lavis(state, tiny())["vision_model.encoder.layers.1.self_attn.qkv.bias"]
    query, value = (state[f"visual_encoder.blocks.1.attn.{which}_bias"] for which in "qv")
    assert torch.equal(bias, torch.cat([query, torch.zeros(12), value]))


def test_a_network_written_as_lavis_and_read_into_another_says_the_same(own: Network, tmp_path: Path) -> None:
    wanted = weights_of(own)
    pixels = torch.randint(0, 255, (1, own.image_size, own.image_size, 3), dtype=torch.uint8)
    ids, mask = own.qformer_ids(["What color is the car?"])
    before = own.visual_tokens(own.encode_images(pixels), ids, mask)
    keys = write_lavis(tmp_path / "w.pth", own, with_frozen=True)
    assert sum(key.startswith("Qformer.") for key in keys) == len(own.model.qformer.state_dict()) + 1
    with torch.no_grad():
        for parameter in own.model.parameters():
            parameter.normal_()
    loaded = load_lavis(own, tmp_path / "w.pth")
    assert loaded.name == f"{embedded.PATH} + {tmp_path / 'w.pth'}"
    torch.testing.assert_close(loaded.visual_tokens(loaded.encode_images(pixels), ids, mask), before, atol=1e-5, rtol=0)
    got = weights_of(own)
    assert [name for name in wanted if not torch.equal(got[name], wanted[name])] == [
        name for name in wanted if name.endswith("self_attn.qkv.bias") and wanted[name].chunk(3)[1].any()
    ]


def test_only_what_the_file_holds_changes(own: Network, tmp_path: Path) -> None:
    before = weights_of(own)
    state = lavis_state(lavis_shapes(config_of(own)))
    torch.save(
        {"model": state, "optimizer": {"state": {}}, "config": {"run": {"seed": 42}}, "epoch": 4}, tmp_path / "w.pth"
    )
    load_lavis(own, tmp_path / "w.pth")
    after = weights_of(own)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {
        n for n in after if n.startswith(("query_tokens", "qformer.", "language_projection.", "vision_model.post"))
    }
    assert torch.equal(after["language_projection.bias"], state["llm_proj.bias"])


def test_the_kind_of_file_is_recognised_and_its_optimizer_left_behind(tmp_path: Path) -> None:
    for variant, changes in {
        Variant.INSTRUCTBLIP: {},
        Variant.VIGC: {"ln_vision": False},
        Variant.MINIGPT4: {"projection": "llama_proj"},
    }.items():
        state = lavis_state(lavis_shapes(tiny(), **changes))
        torch.save({"model": state, "optimizer": {"exp_avg": torch.zeros(9)}, "scaler": {}, "iters": 7}, tmp_path / "w")
        found = read_lavis(tmp_path / "w")
        assert found.variant is variant
        assert same(found.state, state)
        torch.save(state, tmp_path / "bare")
        assert same(read_lavis(tmp_path / "bare").state, state)


def test_a_file_in_torchs_old_form_is_read_too(tmp_path: Path) -> None:
    state = lavis_state(lavis_shapes(tiny()))
    torch.save({"model": state}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(read_lavis(tmp_path / "old.pth").state, state)


def without(prefix: str, state: State) -> State:
    return {key: tensor for key, tensor in state.items() if not key.startswith(prefix)}


def test_a_missing_ln_vision_has_to_be_decided(own: Network, tmp_path: Path) -> None:
    config = config_of(own)
    torch.save({"model": lavis_state(lavis_shapes(config, ln_vision=False))}, tmp_path / "vigc.pth")
    with pytest.raises(
        ModelError, match=r"2 missing \(ln_vision.weight, ln_vision.bias\).*--ln-vision: keep .*, identity, or"
    ):
        load_lavis(own, tmp_path / "vigc.pth")
    norm = own.model.vision_model.post_layernorm
    kept = norm.weight.clone()
    load_lavis(own, tmp_path / "vigc.pth", Fallback(ln_vision="keep"))
    assert torch.equal(norm.weight, kept)
    load_lavis(own, tmp_path / "vigc.pth", Fallback(ln_vision="identity"))
    assert torch.equal(norm.weight, torch.ones_like(kept))
    assert not norm.bias.any()
    theirs = torch.rand_like(kept)
    blip2 = {"model": {"ln_vision.weight": theirs, "ln_vision.bias": theirs, "t5_proj.weight": torch.zeros(2)}}
    torch.save(blip2, tmp_path / "blip2.pth")
    load_lavis(own, tmp_path / "vigc.pth", Fallback(ln_vision=tmp_path / "blip2.pth"))
    assert torch.equal(norm.weight, theirs)


def test_ln_vision_comes_from_a_folder_of_the_hugging_face_form_too(tmp_path: Path) -> None:
    folder = tmp_path / "blip2"
    folder.mkdir()
    weight, bias = torch.rand(12), torch.rand(12)
    save_file({"vision_model.post_layernorm.weight": weight, "x": torch.zeros(1)}, folder / "model-00001.safetensors")
    save_file({"vision_model.post_layernorm.bias": bias}, folder / "model-00002.safetensors")
    state = lavis_state(lavis_shapes(tiny(), ln_vision=False))
    tensors = import_lavis(state, tiny(), Fallback(ln_vision=folder))
    assert torch.equal(tensors["vision_model.post_layernorm.weight"], weight)
    assert torch.equal(tensors["vision_model.post_layernorm.bias"], bias)
    (folder / "model-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"1 missing \(ln_vision.bias\)"):
        import_lavis(state, tiny(), Fallback(ln_vision=folder))
    with pytest.raises(ModelError, match="nowhere"):
        import_lavis(state, tiny(), Fallback(ln_vision=tmp_path / "nowhere"))


def test_a_projection_alone_asks_where_the_qformer_comes_from(own: Network, tmp_path: Path) -> None:
    """MiniGPT-4's stage-1 files: LAVIS loads them without a word and without an effect (Q16)."""
    whole = lavis_state(lavis_shapes(config_of(own), projection="llama_proj"))
    stage1 = {key: tensor for key, tensor in whole.items() if key.startswith("llama_proj.")}
    torch.save({"model": stage1}, tmp_path / "stage1.pth")
    with pytest.raises(
        ModelError,
        match=r"query_tokens, .*Qformer.bert.*missing ln_vision comes.*missing qformer comes .* --qformer: keep",
    ):
        load_lavis(own, tmp_path / "stage1.pth")
    kept = own.model.qformer.state_dict()["encoder.layer.0.output.dense.weight"].clone()
    load_lavis(own, tmp_path / "stage1.pth", Fallback("keep", "keep"))
    after = weights_of(own)
    assert torch.equal(after["language_projection.weight"], stage1["llama_proj.weight"])
    assert torch.equal(after["qformer.encoder.layer.0.output.dense.weight"], kept)

    torch.save({"model": without("llama_proj", whole)}, tmp_path / "rest.pth")
    load_lavis(own, tmp_path / "stage1.pth", Fallback(tmp_path / "rest.pth", tmp_path / "rest.pth"))
    after = weights_of(own)
    assert torch.equal(after["query_tokens"], whole["query_tokens"])
    assert torch.equal(after["vision_model.post_layernorm.bias"], whole["ln_vision.bias"])


def test_a_qformer_without_its_text_branch_is_refused_by_name(tmp_path: Path) -> None:
    state = lavis_state(lavis_shapes(tiny()))
    blip2 = {k: t for k, t in state.items() if "word_emb" not in k and ".output.dense" not in k}
    torch.save(blip2, tmp_path / "blip2.pth")
    with pytest.raises(ModelError, match="missing.*word_embeddings"):
        import_lavis(without("Qformer", state), tiny(), Fallback(qformer=tmp_path / "blip2.pth"))


def other_width(state: State) -> State:
    return state | {"llm_proj.weight": torch.zeros(9, 16)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without("query_tokens", s), r"1 missing \(query_tokens\)"),
        (lambda s: without("llm_proj.bias", s), r"1 missing \(llm_proj.bias\)"),
        (
            lambda s: without("Qformer.bert.encoder.layer.3.intermediate.", s),
            "2 missing .*layer.3.intermediate.dense.weight",
        ),
        (lambda s: s | {"Qformer.cls.bias": torch.zeros(1)}, r"1 unknown \(Qformer.cls.bias\)"),
        (lambda s: s | {"Qformer.bert.encoder.layer.1.crossattention.self.key.bias": torch.zeros(16)}, "1 unknown"),
        (
            lambda s: {key.replace("embeddings.LayerNorm", "embeddings.layernorm"): t for key, t in s.items()},
            "2 unknown .*embeddings.layernorm.*2 missing .*embeddings.LayerNorm",
        ),
        (lambda s: s | {"llama_proj.bias": torch.zeros(8)}, r"1 unknown \(ll"),
        (lambda s: s | {"llm_model.base_model.model.x.lora_A.default.weight": torch.zeros(1)}, "1 unknown .*lora_A"),
        (other_width, r"1 of another shape \(llm_proj.weight is 9 x 16, the model's 8 x 16\)"),
        (lambda s: s | {"llm_proj.bias": torch.full((8,), torch.nan)}, r"1 not finite numbers \(llm_proj.bias\)"),
        (lambda s: s | {"llm_proj.bias": torch.zeros(8, dtype=torch.long)}, r"1 not finite numbers \(llm_proj.bias\)"),
        (lambda s: s | {"visual_encoder.cls_token": torch.zeros(1, 1, 12)}, "missing .*visual_encoder.pos_embed"),
        (lambda s: s | {"visual_encoder.blocks.0.attn.q_bias": torch.zeros(12)}, r"1 unknown \(visual.*q_bias\)"),
        (
            lambda s: {**without("query_tokens", other_width(s)), "x": torch.zeros(1)},
            "1 unknown .*1 missing .*1 of another",
        ),
    ],
)
def test_whatever_does_not_fit_is_named(change: Callable[[State], State], message: str) -> None:
    state = lavis_state(lavis_shapes(tiny()))
    with pytest.raises(ModelError, match=message):
        import_lavis(change(state), tiny())


def test_a_file_for_the_13b_model_does_not_go_into_the_7b_model() -> None:
    state = lavis_state(lavis_shapes(vicuna("13b")), on_meta)
    with pytest.raises(ModelError, match=r"llm_proj.weight is 5120 x 768, the model's 4096 x 768"):
        import_lavis(state, vicuna("7b"))


class Config:
    """Stands for the classes of a configuration library that some checkpoints bring along."""


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def flip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    data = bytearray(path.read_bytes())
    data[largest.header_offset + 1000] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "ends too early"),
        (flip, "checksum"),
        (lambda p: p.write_bytes(b""), "no torch file"),
        (lambda p: p.write_text("<html>Sign in to download"), "no torch file"),
        (lambda p: p.write_text("hello"), "no torch file"),
        (lambda p: p.unlink(), "No such file"),
        (lambda p: torch.save(torch.zeros(3), p), "no weights, but a Tensor"),
        (lambda p: torch.save({}, p), "no weights"),
        (lambda p: torch.save({"model": {"llm_proj.bias": 3}}, p), "'llm_proj.bias' is a int"),
        (lambda p: torch.save({"model": {"t5_proj.bias": torch.zeros(2)}}, p), "neither llm_proj.*t5_proj.bias"),
        (
            lambda p: torch.save({"model": {"a": torch.zeros(2)}, "config": Config()}, p),
            "wants .*Config.*keep its weights",
        ),
        (lambda p: torch.save({"model": {}, "x": Bomb(p.with_name("ran"))}, p), "would run posix.mkdir"),
        (
            lambda p: torch.save({"x": Bomb(p.with_name("ran"))}, p, _use_new_zipfile_serialization=False),
            "would run posix.mkdir",
        ),
    ],
)
def test_a_bad_file_is_one_clear_error_and_changes_nothing(
    own: Network, tmp_path: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    before = weights_of(own)
    path = tmp_path / "w.pth"
    write_lavis(path, own)
    spoil(path)
    with pytest.raises(ModelError, match=message) as caught:
        load_lavis(own, path)
    assert str(path) in str(caught.value)
    assert same(weights_of(own), before)
    assert not (tmp_path / "ran").exists()


def test_one_wrong_key_among_many_changes_nothing(own: Network, tmp_path: Path) -> None:
    before = weights_of(own)
    state = lavis_state(lavis_shapes(config_of(own)))
    torch.save({"model": state | {"llm_proj.bias": torch.zeros(1)}}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="Nothing was loaded"):
        load_lavis(own, tmp_path / "w.pth")
    assert same(weights_of(own), before)


def test_what_lavis_has_no_name_for_is_not_exported(own: Network, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"1 tensors have no name in LAVIS \(lora.weight\)"):
        export_lavis({"lora.weight": torch.zeros(1)})
    own.model.language_model.model.layers[0].self_attn.lora_A = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match="2 adapter tensors.*Merge them first"):
        write_lavis(tmp_path / "w.pth", own)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_an_error(own: Network, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be written"):
        write_lavis(tmp_path / "missing" / "w.pth", own)


def test_half_precision_weights_are_written_in_full_precision(tmp_path: Path) -> None:
    half = load_network(embedded.PATH, device="cpu", dtype="bfloat16")
    write_lavis(tmp_path / "w.pth", half, with_ln_vision=False)
    found = read_lavis(tmp_path / "w.pth")
    assert found.variant is Variant.VIGC
    assert {t.dtype for key, t in found.state.items() if not key.endswith("position_ids")} == {torch.float32}
