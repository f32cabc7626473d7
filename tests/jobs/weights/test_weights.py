"""`vigc weights`: LAVIS files in and out, trained weights into their base and into no other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from vigc.jobs.weights.run import is_merged, merge_checkpoint
from vigc.model.embedded import PATH
from vigc.model.network import load_network
from vigc.model.weights.checkpoints import About, read_about, save_trained, trained_tensors
from vigc.model.weights.lavis import write_lavis
from vigc.model.weights.model_folders import base_hash

PAPER = ("query_tokens", "qformer.", "language_projection.")


@pytest.fixture(scope="module")
def changed():
    """The embedded model with another Q-Former, as training leaves it."""
    network = load_network(PATH, device="cpu", dtype="float32")
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in trained_tensors(network, PAPER).values():
            tensor.add_(torch.randn_like(tensor) * 0.02)
    return network


@pytest.fixture(scope="module")
def lavis(changed, tmp_path_factory):
    """Files as the projects publish them; what each holds is in its name."""
    folder = tmp_path_factory.mktemp("lavis")
    write_lavis(folder / "whole.pth", changed)
    write_lavis(folder / "no_norm.pth", changed, with_ln_vision=False)
    projection = {"llama_proj.weight": changed.model.language_projection.weight.detach()}
    projection["llama_proj.bias"] = changed.model.language_projection.bias.detach()
    torch.save({"model": projection}, folder / "stage1.pth")
    state = torch.load(folder / "whole.pth")["model"]
    torch.save({"model": {k: t for k, t in state.items() if ".layer.1." not in k}}, folder / "partial.pth")
    torch.save({"model": state | {"llm_proj.weight": torch.zeros(7, 5)}}, folder / "wide.pth")
    (folder / "cut.pth").write_bytes((folder / "whole.pth").read_bytes()[:-2000])
    return folder


@pytest.fixture(scope="module")
def checkpoint(changed, tmp_path_factory):
    about = About(str(PATH), base_hash(PATH), PAPER, "paper_7b", 12)
    return save_trained(tmp_path_factory.mktemp("run") / "weights", trained_tensors(changed, PAPER), about)


def stored(folder):
    return load_file(folder / "model.safetensors")


def test_a_lavis_file_becomes_a_model_and_the_same_file_again(vigc_here, lavis, changed, tmp_path):
    made = vigc_here("weights", "import", lavis / "whole.pth", tmp_path / "model", "--base", PATH)
    assert made.code == 0, made.err
    assert "vigc generate IMAGES --model" in made.out
    before, after = stored(PATH), stored(tmp_path / "model")
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        expected = changed.model.state_dict()[name] if name.startswith(PAPER) else before[name]
        assert torch.equal(tensor, expected.to(tensor.dtype)), name
    assert torch.float16 in {tensor.dtype for tensor in after.values()}
    origin = json.loads((tmp_path / "model" / "origin.json").read_text())
    assert (origin["base"], origin["lavis"]) == (str(PATH), str(lavis / "whole.pth"))

    out = tmp_path / "again.pth"
    written = vigc_here("weights", "export", tmp_path / "model", out, "--json")
    assert written.code == 0, written.err
    first, second = (torch.load(file)["model"] for file in (lavis / "whole.pth", out))
    assert written.json() == {"out": str(out), "model": str(tmp_path / "model"), "num_tensors": len(first)}
    assert first.keys() == second.keys()
    for key, tensor in second.items():
        torch.testing.assert_close(tensor, first[key], rtol=2**-10, atol=2**-20)  # the base is stored in fp16


def test_an_export_holds_what_was_asked_for(vigc_here, tmp_path):
    vigc_here("weights", "export", PATH, tmp_path / "small.pth", "--no-ln-vision")
    vigc_here("weights", "export", PATH, tmp_path / "all.pth", "--frozen")
    small, everything = (torch.load(tmp_path / name)["model"] for name in ("small.pth", "all.pth"))
    assert {key.split(".")[0] for key in small} == {"query_tokens", "Qformer", "llm_proj"}
    more = {"ln_vision", "visual_encoder", "llm_model"}
    assert {key.split(".")[0] for key in everything} == {"query_tokens", "Qformer", "llm_proj"} | more


@pytest.mark.parametrize(
    ("file", "options", "told"),
    [
        ("nowhere.pth", [], "cannot be read (No such file"),
        ("cut.pth", [], "The file ends too early|damaged or was not copied completely"),
        ("partial.pth", [], "missing (Qformer.bert.encoder.layer.1.attention.self.query.weight"),
        ("wide.pth", [], "1 of another shape (llm_proj.weight is 7 x 5, the model's"),
        ("no_norm.pth", [], "with --ln-vision: keep (the model's own), identity, or the path"),
        ("no_norm.pth", ["--ln-vision", "lost.pth"], "lost.pth: "),
        ("stage1.pth", ["--ln-vision", "keep"], "with --qformer: keep (the model's own) or the path"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line_and_writes_nothing(vigc_here, lavis, tmp_path, file, options, told):
    result = vigc_here("weights", "import", lavis / file, tmp_path / "model", "--base", PATH, *options)
    assert result.code == 2
    assert any(words in result.err for words in told.split("|"))
    assert result.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_missing_parts_come_from_where_it_was_said(vigc_here, lavis, tmp_path):
    def made(name, file, *options):
        out = tmp_path / name
        result = vigc_here("weights", "import", lavis / file, out, "--base", PATH, *options, "--json")
        assert result.code == 0, result.err
        assert result.json() == {"out": str(out), "base": str(PATH), "lavis": str(lavis / file)}
        return stored(out)

    norm, table = "vision_model.post_layernorm.weight", "qformer.embeddings.word_embeddings.weight"
    base = stored(PATH)
    identity = made("identity", "no_norm.pth", "--ln-vision", "identity")
    assert torch.equal(identity[norm], torch.ones_like(base[norm]))
    assert identity[norm].dtype is torch.float16
    kept = made("kept", "stage1.pth", "--ln-vision", "keep", "--qformer", "keep", "--dtype", "float32")
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    assert torch.equal(kept[norm], base[norm].float())
    assert torch.equal(kept[table], base[table].float())
    given = made("given", "stage1.pth", "--ln-vision", "keep", "--qformer", lavis / "whole.pth")
    assert torch.equal(given[table], identity[table])
    assert not torch.equal(given[table], base[table].to(given[table].dtype))


def test_trained_weights_go_into_the_base_they_were_trained_on(vigc_here, checkpoint, changed, tmp_path):
    copy = shutil.copytree(PATH, tmp_path / "moved")
    trained = changed.model.query_tokens
    for name, options in (("a", []), ("b", ["--base", copy]), ("c", ["--dtype", "bfloat16"])):
        result = vigc_here("weights", "merge", checkpoint, tmp_path / name, *options)
        assert result.code == 0, result.err
        merged = stored(tmp_path / name)["query_tokens"]
        assert torch.equal(merged, trained.to(merged.dtype))
    assert merged.dtype is torch.bfloat16
    assert "there is no 'half'" in vigc_here("weights", "merge", checkpoint, tmp_path / "d", "--dtype", "half").err


def test_a_merge_that_is_done_is_known_by_its_checkpoint(checkpoint, changed, tmp_path):
    assert not is_merged(checkpoint, tmp_path / "model")
    merge_checkpoint(checkpoint, tmp_path / "model")
    assert is_merged(checkpoint, tmp_path / "model")
    later = replace(read_about(checkpoint), step=13)
    save_trained(tmp_path / "later", trained_tensors(changed, PAPER), later)
    assert not is_merged(tmp_path / "later", tmp_path / "model")


def test_another_base_is_refused_even_where_names_and_shapes_agree(vigc_here, checkpoint, tmp_path):
    with torch.no_grad():
        other = load_network(PATH, device="cpu", dtype="float32")
        next(other.model.vision_model.parameters()).add_(1e-3)
    other.model.save_pretrained(shutil.copytree(PATH, tmp_path / "other"))
    result = vigc_here("weights", "merge", checkpoint, tmp_path / "out", "--base", tmp_path / "other")
    assert result.code == 2
    assert "Load the base that it was trained from" in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_nothing_is_ever_written_over(vigc_here, lavis, checkpoint, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for arguments in (
        ("import", lavis / "whole.pth", taken, "--base", PATH),
        ("export", PATH, taken),
        ("merge", checkpoint, taken),
    ):
        result = vigc_here("weights", *arguments)
        assert (result.code, taken.read_text()) == (2, "mine")
        assert "exists" in result.err


def test_a_checkpoint_says_what_is_wrong_with_it(vigc_here, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "weights")
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(data)
    assert "its hash differs" in vigc_here("weights", "merge", folder, tmp_path / "out").err
    assert "no checkpoint there" in vigc_here("weights", "merge", tmp_path, tmp_path / "out").err
