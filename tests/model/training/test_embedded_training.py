"""What the embedded model learns from is true, and the losses are what their names say."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from vigc.model.embedded.files import fresh_network
from vigc.model.embedded.scene_rows import (
    EMPTY,
    IGNORE,
    TextMixture,
    make_text_row,
    make_texts,
    make_vision_row,
    patch_labels,
    training_scene,
)
from vigc.model.embedded.shape import SHIPPED, SMALL, num_parameters
from vigc.model.network import Network
from vigc.model.prompts import load_pack
from vigc.model.scenes.wording import PLACES
from vigc.model.scenes.world import CATEGORIES
from vigc.model.training.loop import TrainingState, train
from vigc.model.training.parallel import make_parallel, require_adamw
from vigc.model.training.recipe import Recipe, embedded
from vigc.model.training.scene_texts import SceneTextObjective
from vigc.model.training.scene_vision import SceneVisionObjective
from vigc.model.training.schedule import make_optimizers, set_learning_rate
from vigc.model.training.trainable import set_trainable
from vigc.platform.records import ConfigError

PACK = load_pack()
TINY = replace(SMALL, image_size=64, vision_width=64, vision_layers=1, width=64, qformer_layers=1, language_layers=1)
EYES, WORDS = embedded()
SAID = re.compile(rf"({'|'.join(PLACES)})", re.IGNORECASE)


@pytest.fixture
def tiny() -> Network:
    return fresh_network(TINY, PACK, seed=0)


def objective_of(recipe: Recipe, network: Network) -> SceneVisionObjective | SceneTextObjective:
    set_trainable(network, recipe.trainable)
    return SceneVisionObjective(network) if recipe.objective == "eyes" else SceneTextObjective(network)


def learn(recipe: Recipe, network: Network, num_updates: int, rows: list[list[dict[str, object]]]) -> list[float]:
    """Updates from these rows, one list each time; gives the losses."""
    objective, losses = objective_of(recipe, network), []
    train(
        make_parallel(objective, recipe, network.device),
        recipe,
        num_updates,
        ([objective.collate(part)] for part in rows),
        state=TrainingState(),
        on_update=lambda report: losses.append(report.metrics["loss"]),
        on_checkpoint=lambda state, figures: None,
    )
    return losses


def words_rows(num: int, mixture: TextMixture | None = None) -> list[dict[str, object]]:
    mixture = mixture or TextMixture()
    return [make_text_row(5, i, image_size=64, pack=PACK, mixture=mixture) for i in range(num)]


def eyes_rows(num: int) -> list[dict[str, object]]:
    return [make_vision_row(5, i, image_size=64, patch_size=16) for i in range(num)]


def test_a_row_is_a_pure_function_of_its_seed_and_index() -> None:
    for first, second in ((words_rows(3), words_rows(3)), (eyes_rows(3), eyes_rows(3))):
        for one, other in zip(first, second, strict=True):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[k], other[k]) for k in one)  # type: ignore[call-overload]
    assert not np.array_equal(*(row["pixels"] for row in eyes_rows(2)))  # type: ignore[call-overload]


def test_every_row_of_a_stage_has_the_same_shapes() -> None:
    mixture = TextMixture()
    for rows in (words_rows(40), eyes_rows(5)):
        shapes = {tuple((k, v.shape, v.dtype) for k, v in row.items() if isinstance(v, np.ndarray)) for row in rows}
        assert len(shapes) == 1
    assert {len(row["prompts"]) for row in words_rows(40)} == {mixture.num_texts}  # type: ignore[arg-type]


def test_rows_are_made_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        "from vigc.model.embedded.scene_rows import make_vision_row\n"
        "assert make_vision_row(0, 0, image_size=32, patch_size=16)['pixels'].shape == (32, 32, 3)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_patch_labels_name_what_covers_the_patch() -> None:
    for index in range(20):
        scene = training_scene(9, index)
        labels = patch_labels(scene, 10)
        nearest = max(scene.objects, key=lambda o: o.box[1] + o.box[3])
        covered = labels["cell"] == nearest.cell
        assert covered.any()
        assert (labels["category"][covered] == CATEGORIES.index(nearest.category)).all()
        assert (labels["colour"][labels["category"] == EMPTY] == IGNORE).all()


def test_begun_descriptions_go_on_behind_the_last_place_that_was_named() -> None:
    """Whatever was wrong in what was said, nothing is told twice and nothing behind it is left out."""
    begun = 0
    for index in range(150):
        scene = training_scene(7, index)
        row = make_text_row(7, index, image_size=32, pack=PACK, mixture=TextMixture(whole=0.0, noise=1.0))
        cells = [o.cell for o in scene.objects]
        for text in (1, 2):
            said = _places(row["prompts"][text])
            told = _places(row["targets"][text])
            left = [c for c in cells if c > (said[-1] if said else -1)]
            assert told == left[: len(told)]
            assert len(told) == min(len(left), 1 if row["prompts"][text].endswith(PACK.answer_tag) else 2)
            assert bool(row["ends"][text]) == row["targets"][text].endswith(("in the picture.", "can be seen."))
            assert [c for c in row["subjects"][text, :, 1] if c != IGNORE] == left
            begun += bool(said)
    assert begun > 100


def test_some_of_what_was_said_is_wrong_and_none_of_what_is_to_be_said() -> None:
    wrong = 0
    for index in range(150):
        scene = training_scene(7, index)
        prompts, targets = make_texts(7, index, pack=PACK, mixture=TextMixture(whole=0.0, noise=1.0))
        true = {f"{o.size} {o.colour} {o.category}" for o in scene.objects}
        for text in (1, 2):
            wrong += not set(re.findall(r"(?:small|large) \w+ \w+", prompts[text])) <= true
            assert set(re.findall(r"(?:small|large) \w+ \w+", targets[text])) <= true
    assert wrong > 50


def _places(text: str) -> list[int]:
    return [PLACES.index(place.lower()) for place in SAID.findall(text)]


@pytest.mark.parametrize("recipe", [EYES, WORDS], ids=lambda r: r.stage)
def test_a_batch_gives_the_gradient_of_its_parts_together(tiny: Network, recipe: Recipe) -> None:
    """So the same update comes out however rows are spread over processes and micro-batches."""
    torch.manual_seed(0)
    objective = objective_of(recipe, tiny)
    rows = eyes_rows(4) if recipe is EYES else words_rows(4)

    def gradient(parts: list[list[dict[str, object]]]) -> tuple[float, torch.Tensor]:
        objective.zero_grad()
        batches = [objective.collate(part) for part in parts]
        losses = [objective(batch)[0] for batch in batches]
        torch.stack(losses).sum().backward()
        flat = torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None])
        return float(sum(b.num_counted for b in batches)), flat

    counted, together = gradient([rows])
    counted_apart, apart = gradient([rows[:1], rows[1:]])
    assert counted == counted_apart == (4 if recipe is EYES else 4 * TextMixture().num_texts)
    assert torch.allclose(together, apart, rtol=1e-3, atol=1e-4 * float(together.abs().max()))


def test_each_stage_trains_its_own_part_and_leaves_the_other_alone(tiny: Network) -> None:
    def trained(objective: torch.nn.Module) -> set[str]:
        return {n.removeprefix("model.").split(".")[0] for n, p in objective.named_parameters() if p.requires_grad}

    assert trained(objective_of(EYES, tiny)) == {"vision_model", "patch", "background"}
    words = trained(objective_of(WORDS, tiny))
    assert "vision_model" not in words
    assert words >= {"query_tokens", "qformer", "language_projection", "language_model", "subject"}


@pytest.mark.parametrize("num_queries", [2, 8, 32])
def test_every_subject_is_asked_for_with_any_number_of_queries(num_queries: int) -> None:
    network = fresh_network(replace(TINY, num_queries=num_queries), PACK, seed=0)
    objective = objective_of(WORDS, network)
    batch = objective.collate(words_rows(30))
    objective(batch)[0].backward()
    rounds = objective.subject.weight.grad.view(objective.num_rounds, -1).abs().sum(1)  # type: ignore[union-attr]
    assert objective.num_rounds == -(-12 // num_queries)
    assert (rounds > 0).all()


def test_an_answer_cut_short_is_not_ended(tiny: Network) -> None:
    rows = words_rows(8, TextMixture(whole=0.0))
    batch = SceneTextObjective(tiny).collate(rows)
    ended = sum(int((group.wanted == tiny.eos_id).any(1).sum()) for group in batch.groups)
    assert ended == sum(int(row["ends"].sum()) for row in rows)  # type: ignore[attr-defined]
    assert ended < batch.num_counted


def test_the_shipped_shape_fits_into_24_megabytes_of_half_precision() -> None:
    network = fresh_network(SHIPPED, PACK, seed=0)
    assert 2 * num_parameters(network.model) < 23 * 2**20
    assert len(network.tokenizer) <= 1024
    text = " Question: Where is the umbrella? Answer: The umbrella is at the upper far left."
    assert network.tokenizer.decode(network.tokenizer(text, add_special_tokens=False).input_ids) == text


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "most"), [(EYES, 8.0), (WORDS, 28.0)], ids=["eyes", "words"])
def test_a_stage_learns_from_its_first_updates(tiny: Network, recipe: Recipe, most: float) -> None:
    make = eyes_rows if recipe is EYES else words_rows
    frozen = {n: p.clone() for n, p in tiny.model.named_parameters() if n.startswith("vision") is (recipe is WORDS)}
    rows = make(60 * 4)
    losses = learn(recipe, tiny, 60, [rows[i : i + 4] for i in range(0, len(rows), 4)])
    assert losses[0] > most + 3
    assert losses[-1] < most
    after = dict(tiny.model.named_parameters())
    assert all(torch.equal(p, after[n]) for n, p in frozen.items())


def test_matrices_of_layers_go_under_muon_and_all_the_rest_under_adamw(tiny: Network) -> None:
    objective = objective_of(WORDS, tiny)
    adamw, muon = make_optimizers(objective, 1e-3, 0.05, (0.9, 0.98), 10.0)
    under_muon = {id(p) for group in muon.param_groups for p in group["params"]}
    under_adamw = {id(p) for group in adamw.param_groups for p in group["params"]}
    trained = objective.trained()
    assert under_muon | under_adamw == {id(p) for p in trained.values()}
    assert not under_muon & under_adamw
    for name, parameter in trained.items():
        inside = re.search(r"\.layers?\.\d+\.", name) is not None and parameter.ndim == 2
        assert (id(parameter) in under_muon) is inside, name
    set_learning_rate([adamw, muon], 0.5)
    assert {group["lr"] for group in adamw.param_groups} == {0.5}
    assert {group["lr"] for group in muon.param_groups} == {5.0}


def test_muon_is_refused_where_matrices_are_spread_over_processes(tiny: Network) -> None:
    with pytest.raises(ConfigError, match="Muon needs whole matrices"):
        require_adamw(replace(EYES, parallel="zero2"))
