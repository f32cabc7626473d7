"""Loading is strict and loud."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vigc.model import embedded
from vigc.model.network import QFORMER_MAX_TOKENS, Network, load_network
from vigc.platform.records import ModelError


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(embedded.PATH, tmp_path / "model"))


def change_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file) | {k.replace("__", "."): v for k, v in changes.items() if v is not None}
    for key, value in changes.items():
        if value is None:
            del weights[key.replace("__", ".")]
    save_file(weights, file, metadata={"format": "pt"})


def test_a_missing_weight_is_an_error_that_names_it(copy: Path) -> None:
    change_weights(copy, language_projection__bias=None)
    with pytest.raises(ModelError, match=r"1 missing \(language_projection.bias\)"):
        load_network(copy)


def test_an_unknown_weight_is_an_error_that_names_it(copy: Path) -> None:
    change_weights(copy, qformer__extra=torch.zeros(1))
    with pytest.raises(ModelError, match=r"1 unknown \(qformer.extra\)"):
        load_network(copy)


def test_a_weight_of_another_shape_is_an_error(copy: Path) -> None:
    change_weights(copy, language_projection__bias=torch.zeros(7))
    with pytest.raises(ModelError, match="language_projection.bias"):
        load_network(copy)


@pytest.mark.parametrize(
    ("gone", "what"),
    [
        ("tokenizer.json", "tokenizer could not be loaded"),
        ("qformer_tokenizer", "Q-Former tokenizer could not be loaded"),
        ("preprocessor_config.json", "image processor could not be loaded"),
        ("model.safetensors", "weights could not be loaded"),
        ("config.json", "no config.json there"),
    ],
)
def test_a_missing_file_is_one_clear_error(copy: Path, gone: str, what: str) -> None:
    target = copy / gone
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(ModelError, match=what) as caught:
        load_network(copy)
    assert str(copy) in str(caught.value)


def test_another_architecture_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "llava"}))
    with pytest.raises(ModelError, match="InstructBLIP"):
        load_network(copy)


def test_a_truncated_weight_file_is_refused(copy: Path) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(ModelError, match="weights could not be loaded"):
        load_network(copy)


def test_a_folder_that_is_not_there_and_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        load_network(tmp_path / "nothing")
    with pytest.raises(ModelError, match="cannot be used"):
        load_network(embedded.PATH, device="nonsense")
    with pytest.raises(ModelError, match="dtype"):
        load_network(embedded.PATH, dtype="float8")


def test_the_qformer_text_is_cut_from_the_left(network: Network) -> None:
    long = "Question: " + "the red car " * 100 + "is the newest sentence."
    ids, mask = network.qformer_ids([long, "short"])
    assert ids.shape == (2, QFORMER_MAX_TOKENS)
    assert network.qformer_tokenizer.decode(ids[0]).endswith("is the newest sentence.")
    assert ids[0, 0] == ids[1, 0] == network.qformer_tokenizer.bos_token_id
    assert int(mask[1].sum()) < 10


def test_a_prompts_visual_tokens_do_not_depend_on_its_neighbours(network: Network) -> None:
    features = network.encode_images(
        torch.randint(0, 255, (2, network.image_size, network.image_size, 3), dtype=torch.uint8)
    )
    texts = ["What color is the car?", "A much longer prompt than the other one, with many more words in it."]
    together = network.visual_tokens(features, *network.qformer_ids(texts))
    alone = network.visual_tokens(features[:1], *network.qformer_ids(texts[:1]))
    assert torch.allclose(together[:1], alone, atol=1e-4)
    other = network.visual_tokens(features[:1], *network.qformer_ids(["Where is the tree?"]))
    assert not torch.allclose(alone, other, atol=1e-2)  # the text decides what is extracted


def test_half_precision_loads(copy: Path) -> None:
    assert load_network(copy, device="cpu", dtype="bfloat16").dtype is torch.bfloat16


@pytest.fixture
def sharded(tmp_path: Path, network: Network) -> Path:
    """The embedded model as large ones are stored: several files and an index."""
    folder = Path(shutil.copytree(embedded.PATH, tmp_path / "sharded"))
    (folder / "model.safetensors").unlink()
    network.model.save_pretrained(folder, max_shard_size="8MB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


def flip_header(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[20] ^= 0xFF
    file.write_bytes(data)


def forget_second_shard(folder: Path) -> None:
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    gone = sorted(folder.glob("model-*"))[1]
    gone.unlink()
    index["weight_map"] = {name: shard for name, shard in index["weight_map"].items() if shard != gone.name}
    file.write_text(json.dumps(index))


def empty_second_shard(folder: Path) -> None:
    save_file({}, sorted(folder.glob("model-*"))[1], metadata={"format": "pt"})


def test_a_model_in_several_files_loads(sharded: Path, network: Network) -> None:
    loaded = load_network(sharded, device="cpu").model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.model.state_dict().items())


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda folder: sorted(folder.glob("model-*"))[1].unlink(), "weights could not be loaded"),
        (lambda folder: (folder / "model.safetensors.index.json").unlink(), "weights could not be loaded"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{"), "weights could not be loaded"),
        (lambda folder: flip_header(sorted(folder.glob("model-*"))[0]), "weights could not be loaded"),
        (lambda folder: sorted(folder.glob("model-*"))[0].write_bytes(b""), "weights could not be loaded"),
        (forget_second_shard, r"\d+ missing"),
        (empty_second_shard, r"\d+ missing"),
    ],
)
def test_a_model_with_a_damaged_or_missing_part_is_refused(
    sharded: Path, spoil: Callable[[Path], Any], what: str
) -> None:
    spoil(sharded)
    with pytest.raises(ModelError, match=what) as caught:
        load_network(sharded)
    assert str(sharded) in str(caught.value)
