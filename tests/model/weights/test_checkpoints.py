"""Checkpoints of what was trained: small, bound to their base, whole or not at all."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import InstructBlipForConditionalGeneration

from vigc.model import embedded
from vigc.model.benchmarks.shapes import vicuna
from vigc.model.files.weight_files import find_weights
from vigc.model.network import STORED, Network, load_network
from vigc.model.weights.adapters import Lora, add_lora, lora_of, merge_lora
from vigc.model.weights.checkpoints import About, load_trained, merge, read_about, save_trained, trained_tensors
from vigc.model.weights.model_folders import base_hash, save_network
from vigc.platform.records import ModelError

PAPER = ("query_tokens", "qformer.", "language_projection.")
LORA = Lora(rank=4, alpha=8, dropout=0.5, targets=("q_proj", "v_proj"))
QUESTION = "What color is the car?"


def fresh() -> Network:
    return load_network(embedded.PATH, device="cpu")


@pytest.fixture(scope="session")
def hash_of_base() -> str:
    return base_hash(embedded.PATH)


def about(hash_of_base: str, **changes: Any) -> About:
    return replace(About(str(embedded.PATH), hash_of_base, PAPER, "paper_7b", 12), **changes)


def disturb(network: Network, trainable: tuple[str, ...] = PAPER) -> None:
    """What training does, as far as a checkpoint can tell."""
    torch.manual_seed(3)
    with torch.no_grad():
        for tensor in trained_tensors(network, trainable).values():
            tensor.add_(torch.randn_like(tensor) * 0.05)


def outputs(network: Network) -> Tensor:
    """Logits over a prompt about a picture: every part of the model has a share in them."""
    torch.manual_seed(4)
    pixels = torch.randint(0, 255, (2, network.image_size, network.image_size, 3), dtype=torch.uint8)
    with torch.no_grad():
        visual = network.visual_tokens(network.encode_images(pixels), *network.qformer_ids([QUESTION] * 2))
        text = network.embed(torch.tensor([network.prompt_ids(QUESTION)] * 2))
        logits: Tensor = network.language_model(inputs_embeds=torch.cat([visual, text.to(visual.dtype)], dim=1)).logits
    return logits


def weights_of(network: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.model.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture
def checkpoint(tmp_path: Path, hash_of_base: str) -> Path:
    network = fresh()
    disturb(network)
    return save_trained(tmp_path / "step-12", trained_tensors(network, PAPER), about(hash_of_base))


def test_a_checkpoint_brings_the_trained_outputs_back(tmp_path: Path, hash_of_base: str) -> None:
    trained = fresh()
    disturb(trained)
    said = about(hash_of_base, details={"loss": 0.5, "layers": [1, 2]})
    folder = save_trained(tmp_path / "c", trained_tensors(trained, PAPER), said)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c"]
    assert sorted(file.name for file in folder.iterdir()) == ["checkpoint.json", "weights.safetensors"]
    assert set(load_file(folder / "weights.safetensors")) == {
        name for name in trained.model.state_dict() if name.startswith(PAPER)
    }
    assert read_about(folder) == said
    base = fresh()
    assert not torch.allclose(outputs(base), outputs(trained), atol=1e-2)
    loaded = load_trained(base, folder)
    assert loaded.name == f"{embedded.PATH} + {folder}"
    assert same(weights_of(loaded), weights_of(trained))
    assert torch.equal(outputs(loaded), outputs(trained))


def test_the_merged_folder_is_a_model_like_any_other(tmp_path: Path, checkpoint: Path) -> None:
    merged = merge(fresh(), checkpoint, tmp_path / "merged")
    assert merged.name == str(tmp_path / "merged")
    loaded = load_network(tmp_path / "merged", device="cpu")
    torch.testing.assert_close(outputs(loaded), outputs(load_trained(fresh(), checkpoint)), atol=1e-5, rtol=0)
    assert (loaded.image_mean, loaded.image_std) == (merged.image_mean, merged.image_std)
    for name in ("tokenizer.json", "preprocessor_config.json", "qformer_tokenizer/tokenizer.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (embedded.PATH / name).read_bytes()
    origin = json.loads((tmp_path / "merged" / "origin.json").read_text())
    assert (origin["base"], origin["checkpoint"]["step"]) == (str(embedded.PATH), 12)
    assert base_hash(merged) == base_hash(tmp_path / "merged") != base_hash(embedded.PATH)
    assert not list(tmp_path.glob(".*"))


def test_adapters_are_stored_loaded_and_merged_to_the_same_outputs(tmp_path: Path, hash_of_base: str) -> None:
    trained = fresh()
    before = outputs(trained)
    add_lora(trained, LORA)
    assert torch.equal(outputs(trained), before)
    disturb(trained)
    said = about(hash_of_base, lora=LORA)
    folder = save_trained(tmp_path / "c", trained_tensors(trained, PAPER), said)
    stored = load_file(folder / "weights.safetensors")
    adapters = {name for name in stored if not name.startswith(PAPER)}
    assert len(adapters) == 4 * trained.model.config.text_config.num_hidden_layers
    assert "language_model.model.layers.0.self_attn.q_proj.lora_A.default.weight" in adapters
    wanted = outputs(trained)
    assert not torch.allclose(wanted, before, atol=1e-2)

    loaded = load_trained(fresh(), folder)
    assert lora_of(loaded) == LORA
    assert torch.equal(outputs(loaded), wanted)
    assert same(trained_tensors(loaded, PAPER), trained_tensors(trained, PAPER))
    resumed = fresh()
    add_lora(resumed, replace(LORA, dropout=0.0))
    assert torch.equal(outputs(load_trained(resumed, folder)), wanted)

    merged = merge(fresh(), folder, tmp_path / "merged")
    torch.testing.assert_close(outputs(merged), wanted, atol=1e-5, rtol=0)
    assert weights_of(merged).keys() == weights_of(fresh()).keys()
    torch.testing.assert_close(outputs(load_network(tmp_path / "merged", device="cpu")), wanted, atol=1e-5, rtol=0)


def test_names_as_pefts_model_has_them_are_understood(tmp_path: Path, hash_of_base: str) -> None:
    network = fresh()
    add_lora(network, LORA)
    disturb(network, ())
    tensors = trained_tensors(network, ())
    wrapped = {name.replace("language_model.", "language_model.base_model.model."): t for name, t in tensors.items()}
    folder = save_trained(tmp_path / "c", wrapped, about(hash_of_base, trainable=(), lora=LORA))
    assert torch.equal(outputs(load_trained(fresh(), folder)), outputs(network))


def test_everything_can_be_what_was_trained(tmp_path: Path, hash_of_base: str) -> None:
    everything = (*PAPER, "vision_model.", "language_model.")
    network = fresh()
    disturb(network, everything)
    said = about(hash_of_base, trainable=everything)
    folder = save_trained(tmp_path / "c", trained_tensors(network, everything), said)
    assert torch.equal(outputs(load_trained(fresh(), folder)), outputs(network))
    merge(fresh(), folder, tmp_path / "merged")
    assert same(weights_of(load_network(tmp_path / "merged", device="cpu")), weights_of(network))


def test_half_precision_halves_the_file_and_loads_into_a_full_precision_model(
    tmp_path: Path, hash_of_base: str
) -> None:
    tensors = trained_tensors(fresh(), PAPER)
    full = save_trained(tmp_path / "full", tensors, about(hash_of_base))
    half = save_trained(tmp_path / "half", tensors, about(hash_of_base), dtype="bfloat16")
    sizes = [(folder / "weights.safetensors").stat().st_size for folder in (full, half)]
    assert sizes[1] / sizes[0] == pytest.approx(0.5, abs=0.01)
    loaded = load_trained(fresh(), half)
    assert loaded.model.query_tokens.dtype is torch.float32
    torch.testing.assert_close(loaded.model.query_tokens.data, tensors["query_tokens"], rtol=2**-8, atol=0)
    with pytest.raises(ModelError, match="float8"):
        merge(fresh(), half, tmp_path / "x", dtype="float8")
    with pytest.raises(ModelError, match="float8"):
        save_trained(tmp_path / "x", tensors, about(hash_of_base), dtype="float8")


@pytest.mark.parametrize(("size", "count"), [("7b", 188_834_560), ("13b", 189_622_016)])
def test_the_papers_trainable_set_has_the_papers_size(network: Network, size: str, count: int) -> None:
    with torch.device("meta"):
        large = replace(network, model=InstructBlipForConditionalGeneration(vicuna(size)))
    trained = trained_tensors(large, PAPER)
    assert sum(tensor.numel() for tensor in trained.values()) == count
    norm = trained_tensors(large, (*PAPER, "vision_model.post_layernorm."))
    assert sum(tensor.numel() for tensor in norm.values()) == count + 2 * 1408
    assert math.isclose(2 * count, 378e6, rel_tol=0.005)  # bytes in bf16


def test_another_base_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    other = Path(shutil.copytree(embedded.PATH, tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    weights["language_model.model.norm.weight"] += 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    network = load_network(other, device="cpu")
    before = weights_of(network)
    with pytest.raises(ModelError, match="Load the base that it was trained from") as caught:
        load_trained(network, checkpoint)
    assert str(embedded.PATH) in str(caught.value)
    assert same(weights_of(network), before)


def test_a_copy_of_the_base_elsewhere_is_the_same_base(tmp_path: Path, checkpoint: Path) -> None:
    copy = shutil.copytree(embedded.PATH, tmp_path / "copy")
    load_trained(load_network(copy, device="cpu"), checkpoint)


def test_a_network_put_together_from_several_files_is_no_base(checkpoint: Path, tmp_path: Path) -> None:
    loaded = load_trained(fresh(), checkpoint)
    with pytest.raises(ModelError, match="save_network"):
        base_hash(loaded)
    with pytest.raises(ModelError, match="save_network"):
        load_trained(loaded, checkpoint)
    assert base_hash(save_network(loaded, tmp_path / "saved"))


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "checkpoint.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Other tensors under a description that fits the file."""
    file = folder / "weights.safetensors"
    save_file(change(load_file(file)), file)
    edit(folder, weights={"sha256": base_hash(folder)})


def flip(folder: Path) -> None:
    file = folder / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(folder: Path) -> None:
    file = folder / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (flip, "its hash differs"),
        (cut, "its hash differs"),
        (lambda f: (f / "weights.safetensors").unlink(), "cannot be read"),
        (lambda f: (f / "checkpoint.json").unlink(), "no checkpoint there"),
        (lambda f: (f / "checkpoint.json").write_text("{"), "not JSON"),
        (lambda f: (f / "checkpoint.json").write_text("[]"), "not a description"),
        (lambda f: edit(f, format="x"), "not a description"),
        (lambda f: edit(f, version=2), "version 2 .* reads 1"),
        (lambda f: edit(f, trainable=None), "of another form"),
        (lambda f: edit(f, trainable=["qformer.", "ears."]), "'ears.'"),
        (lambda f: edit(f, weights={}), "'sha256' is missing"),
        (lambda f: edit(f, lora={"rank": 4}), "'targets' is missing"),
        (lambda f: edit(f, trainable=[*PAPER, "vision_model.post"]), "2 missing .*vision_model.post_layernorm.weight"),
        (lambda f: edit(f, trainable=["qformer."]), "3 unknown .*query_tokens"),
        (
            lambda f: rewrite(f, lambda t: {k: v for k, v in t.items() if k != "query_tokens"}),
            r"1 missing \(query_tokens\)",
        ),
        (lambda f: rewrite(f, lambda t: t | {"qformer.x": torch.zeros(1)}), r"1 unknown \(qformer.x\)"),
        (
            lambda f: rewrite(f, lambda t: t | {"query_tokens": torch.zeros(1, 2)}),
            r"query_tokens is \[1, 2\], the model's",
        ),
        (
            lambda f: edit(f, lora={"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj"]}),
            "missing .*q_proj.lora_A.default.weight",
        ),
        (
            lambda f: edit(f, lora={"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["c_attn"]}),
            "no target 'c_attn': .* are called down_proj",
        ),
        (lambda f: rewrite(f, lambda t: t | {"language_model.q.lora_A.default.weight": torch.zeros(1)}), "1 unknown"),
    ],
)
def test_a_bad_checkpoint_is_one_clear_error_and_changes_nothing(
    checkpoint: Path, hash_of_base: str, spoil: Callable[[Path], Any], message: str
) -> None:
    spoil(checkpoint)
    network = fresh()
    before = weights_of(network)
    with pytest.raises(ModelError, match=message):
        load_trained(network, checkpoint, known_base_hash=hash_of_base)
    assert same(weights_of(network), before)


def test_a_weight_file_that_is_none_is_refused_even_with_the_right_hash(checkpoint: Path) -> None:
    (checkpoint / "weights.safetensors").write_bytes(b"{}" * 10)
    edit(checkpoint, weights={"sha256": base_hash(checkpoint)})
    with pytest.raises(ModelError, match="no safetensors file"):
        load_trained(fresh(), checkpoint)


def test_adapters_of_another_shape_are_refused(tmp_path: Path, hash_of_base: str, checkpoint: Path) -> None:
    network = fresh()
    add_lora(network, replace(LORA, alpha=99))
    with pytest.raises(ModelError, match="was trained with none"):
        load_trained(network, checkpoint)
    said = about(hash_of_base, trainable=(), lora=LORA)
    folder = save_trained(tmp_path / "c", trained_tensors(network, ()), said)
    with pytest.raises(ModelError, match="alpha=99"):
        load_trained(network, folder)
    with pytest.raises(ModelError, match="adapters already"):
        add_lora(network, LORA)
    with pytest.raises(ModelError, match="Merge them first"):
        save_network(network, tmp_path / "x")
    merge_lora(network)
    assert lora_of(network) is None


@pytest.mark.parametrize(
    ("change", "said", "message"),
    [
        (lambda t: t | {"vision_model.x": torch.zeros(1)}, {}, r"1 are not announced as trainable \(vision_model.x\)"),
        (lambda t: {"qformer.x": torch.zeros(1)}, {}, "none starts with query_tokens, language_projection."),
        (lambda t: t | {"query_tokens": torch.zeros(0)}, {}, r"1 are empty \(query_tokens\)"),
        (lambda t: t, {"lora": LORA}, "0 adapter tensors, but lora is Lora"),
        (lambda t: t | {"a.lora_A.default.weight": torch.zeros(1)}, {}, "1 adapter tensors, but lora is None"),
        (lambda t: {}, {"trainable": ()}, "no tensor"),
    ],
)
def test_only_what_is_announced_is_written(
    tmp_path: Path,
    hash_of_base: str,
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    said: dict[str, Any],
    message: str,
) -> None:
    tensors = change(trained_tensors(fresh(), PAPER))
    with pytest.raises(ModelError, match=message):
        save_trained(tmp_path / "c", tensors, about(hash_of_base, **said))
    assert not list(tmp_path.iterdir())


def test_a_newer_checkpoint_replaces_an_older_one_and_nothing_else(
    tmp_path: Path, checkpoint: Path, hash_of_base: str
) -> None:
    tensors = trained_tensors(fresh(), PAPER)
    save_trained(checkpoint, tensors, about(hash_of_base, step=13))
    assert read_about(checkpoint).step == 13
    with pytest.raises(ModelError, match="cannot be written"):
        save_trained(checkpoint, tensors, about(hash_of_base, step=14, details={"x": object()}))
    assert read_about(checkpoint).step == 13
    (tmp_path / "diary").mkdir()
    (tmp_path / "file").touch()
    for taken in ("diary", "file"):
        with pytest.raises(ModelError, match="is no checkpoint"):
            save_trained(tmp_path / taken, tensors, about(hash_of_base))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["diary", "file", "step-12"]


def test_merging_never_writes_over_anything(tmp_path: Path, checkpoint: Path) -> None:
    network = fresh()
    before = weights_of(network)
    with pytest.raises(ModelError, match="exists"):
        merge(network, checkpoint, tmp_path)
    assert same(weights_of(network), before)
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="cannot be written"):
        merge(network, checkpoint, tmp_path / "file" / "merged")


def test_a_network_that_no_folder_holds_is_saved_with_all_that_loading_needs(tmp_path: Path) -> None:
    network = fresh()
    network.tokenizer.name_or_path = ""
    disturb(network)
    save_network(network, tmp_path / "made")
    loaded = load_network(tmp_path / "made", device="cpu", dtype="float32")
    assert torch.equal(outputs(loaded), outputs(network))
    assert (loaded.image_mean, loaded.image_std) == (network.image_mean, network.image_std)


def test_a_merged_model_keeps_the_dtype_that_its_base_is_stored_in(tmp_path: Path, checkpoint: Path) -> None:
    base = load_network(embedded.PATH, device="cpu", dtype=STORED)
    merge(base, checkpoint, tmp_path / "merged")
    stored = [load_file(folder / "model.safetensors") for folder in (embedded.PATH, tmp_path / "merged")]
    frozen = [name for name in stored[0] if not name.startswith(PAPER)]
    assert {stored[1][name].dtype for name in frozen} == {torch.float16}
    assert all(torch.equal(stored[0][name], stored[1][name]) for name in frozen)
    merge(fresh(), checkpoint, tmp_path / "half", dtype="float16")
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float16}


def test_the_hash_covers_every_file_that_loading_reads(tmp_path: Path) -> None:
    for name in ("b.safetensors", "a.safetensors", "pytorch_model.bin", "optimizer.bin", "config.json"):
        (tmp_path / name).write_text(name)
    assert [file.name for file in find_weights(tmp_path)] == ["a.safetensors", "b.safetensors"]
    before = base_hash(tmp_path)
    (tmp_path / "pytorch_model.bin").write_text("other")
    assert base_hash(tmp_path) == before
    (tmp_path / "b.safetensors").write_text("other")
    assert base_hash(tmp_path) != before
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    assert [file.name for file in find_weights(tmp_path)] == ["pytorch_model.bin"]
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="no weights there"):
        base_hash(tmp_path)
