"""The loop and its strategies, without Ray: processes of torchrun on the embedded model."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_steps import make_rows, unreadable
from waiting import WAIT_S

from vigc.model.embedded import PATH
from vigc.model.network import load_network
from vigc.model.prompts import load_pack
from vigc.model.training import loop
from vigc.model.training.flops import text_flops
from vigc.model.training.instructions import IGNORE, InstructionObjective, collate_texts
from vigc.model.training.loop import make_schedule
from vigc.model.training.objective import MODEL
from vigc.model.training.parallel import make_parallel
from vigc.model.training.recipe import PRESETS, OptimizerRecipe, Recipe, Tasks
from vigc.model.training.tasks import Task, make_text
from vigc.model.training.trainable import Trainable, set_trainable
from vigc.model.weights.adapters import Lora
from vigc.model.weights.checkpoints import About, merge, save_trained
from vigc.model.weights.model_folders import base_hash
from vigc.platform.records import ConfigError, Kind, ModelError

SCRIPT = Path(__file__).parents[2] / "helpers" / "train_steps.py"
PACK = load_pack()
# Summation orders differ between arrangements, nothing else; fp32 losses of order 1.
TOLERANCE = 1e-5


def steps(out: Path, parallel: str, updates: int, *options: str, processes: int = 1) -> list[float]:
    runner = [sys.executable] if processes == 1 else [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    if processes > 1:
        runner += ["--nproc-per-node", str(processes)]
    done = subprocess.run(
        [*runner, str(SCRIPT), str(out), parallel, str(updates), *options],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    losses: list[float] = json.loads((out / "losses.json").read_text())
    return losses


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    return out, steps(out, "ddp", 4)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp", "zero2", "zero3"])
def test_two_processes_learn_what_one_learns(alone, tmp_path, parallel):
    _, expected = alone
    losses = steps(tmp_path, parallel, 4, processes=2)
    assert losses == pytest.approx(expected, abs=TOLERANCE)
    assert max(expected) - min(expected) > 100 * TOLERANCE  # otherwise nothing was learnt, and all would agree


@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "processes"), [("ddp", 1), ("fsdp", 2)])
def test_a_run_that_is_taken_up_again_ends_as_if_it_had_not_stopped(tmp_path, parallel, processes):
    whole = steps(tmp_path / "whole", parallel, 5, processes=processes)
    begun = steps(tmp_path / "first", parallel, 5, "--stop-after", "2", processes=processes)
    assert begun == whole[:2]
    rest = steps(tmp_path / "rest", parallel, 5, "--resume-from", str(tmp_path / "first"), processes=processes)
    assert rest == whole[2:]
    ends = [load_file(tmp_path / name / "trained.safetensors") for name in ("whole", "rest")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_frozen_weights_stay_bit_identical_and_checkpoints_hold_only_what_was_trained(alone):
    out, _ = alone
    assert json.loads((out / "frozen.json").read_text())["same"] is True
    trained = load_file(out / "trained.safetensors")
    parts = Counter(name.split(".")[1] for name in trained)
    assert set(parts) == {"query_tokens", "qformer", "language_projection"}
    state = torch.load(out / "optimizer.pt", weights_only=True)["optimizers"][0]["state"]
    assert len(state) == len(trained)
    assert sum(m["exp_avg"].numel() for m in state.values()) == sum(t.numel() for t in trained.values())


def test_what_is_trainable_is_the_recipes_choice():
    def trained(wanted: Trainable) -> set[str]:
        network = load_network(PATH, device="cpu", dtype="float32")
        return set(set_trainable(network, wanted))

    paper = trained(Trainable())
    norm = trained(Trainable(vision_norm=True))
    lora = trained(Trainable(qformer=False, lora=Lora()))
    assert norm - paper == {"vision_model.post_layernorm.weight", "vision_model.post_layernorm.bias"}
    assert {name.split(".")[0] for name in lora} == {"language_model", "language_projection"}
    assert all("lora_" in name for name in lora if name.startswith("language_model"))
    assert len([name for name in lora if "lora_A" in name]) == 4 * 4
    with pytest.raises(ConfigError, match="Nothing is trainable"):
        trained(Trainable(qformer=False, projection=False))
    with pytest.raises(ModelError, match="LoRA has no target 'no_such'"):
        trained(Trainable(lora=Lora(targets=("no_such",))))


@pytest.mark.parametrize("wanted", [Trainable(), Trainable(lora=Lora())], ids=["paper", "lora"])
def test_trained_weights_are_fp32_whatever_the_frozen_ones_are(wanted):
    network = load_network(PATH, device="cpu", dtype="bfloat16")
    set_trainable(network, wanted)
    dtypes = {(p.requires_grad, p.dtype) for p in network.model.parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}


def test_only_the_target_and_its_end_mark_count():
    network = load_network(PATH, device="cpu", dtype="float32")
    row = {**unreadable(network.image_size), "prompts": ["Where is the cup?"], "targets": [" On the left."]}
    batch = collate_texts(network, [row])
    target = network.tokenizer(" On the left.", add_special_tokens=False).input_ids
    assert batch.labels[0][batch.labels[0] != IGNORE].tolist() == [*target, network.eos_id]
    assert batch.num_counted == len(target) + 1
    assert batch.ids[0, : -len(target) - 1].tolist() == network.prompt_ids("Where is the cup?")


def test_the_loss_does_not_depend_on_how_texts_are_grouped_or_padded():
    network = load_network(PATH, device="cpu", dtype="float32")
    rows = make_rows(network.image_size)[:6]
    whole = InstructionObjective(network)
    with torch.no_grad():
        together = whole(whole.collate(rows))[0]
        pairs = InstructionObjective(network, group_size=2)(whole.collate(rows))[0]
        singly = sum(whole(whole.collate([row]))[0] for row in rows)
    assert float(pairs) == pytest.approx(float(together), rel=1e-5)
    assert float(singly) == pytest.approx(float(together), rel=1e-5)


def test_gradient_checkpointing_gives_the_same_gradients():
    rows = make_rows(load_network(PATH, device="cpu").image_size)[:3]
    gradients = []
    for checkpointing in (False, True):
        network = load_network(PATH, device="cpu", dtype="float32")
        set_trainable(network, Trainable())
        objective = InstructionObjective(network, gradient_checkpointing=checkpointing)
        assert network.language_model.model.layers[0].gradient_checkpointing is checkpointing
        objective(objective.collate(rows))[0].backward()
        gradients.append(network.model.query_tokens.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_batch_without_texts_asks_for_no_change():
    network = load_network(PATH, device="cpu", dtype="float32")
    set_trainable(network, Trainable())
    objective = InstructionObjective(network)
    empty = objective.collate([unreadable(network.image_size)])
    objective(empty)[0].backward()
    assert (empty.num_counted, empty.num_rows, empty.num_unreadable) == (0, 0, 1)
    assert float(network.model.query_tokens.grad.abs().sum()) == 0.0


def test_a_run_goes_on_past_a_few_unreadable_images_counts_them_and_stops_at_many(monkeypatch):
    monkeypatch.setattr(loop, "FEWEST_SAMPLES", 10)
    network = load_network(PATH, device="cpu", dtype="float32")
    set_trainable(network, Trainable())
    objective = InstructionObjective(network)
    recipe = Recipe("few", "", batch_size=2, micro_batch_size=2, precision="fp32", max_unreadable=0.2)
    readable = make_rows(network.image_size)[0]
    faulty = unreadable(network.image_size)
    seen = []

    def learn(*updates):
        batches = ([objective.collate(list(rows))] for rows in updates)
        parallel = make_parallel(objective, recipe, network.device)
        state = loop.TrainingState()
        loop.train(
            parallel,
            recipe,
            len(updates),
            batches,
            state=state,
            on_update=seen.append,
            on_checkpoint=lambda state, figures: None,
        )

    learn((readable, faulty), (faulty, readable))  # 2 of what would be 10
    assert [r.metrics["num_unreadable"] for r in seen] == [1, 2]
    assert seen[-1].state.num_unreadable == 2
    with pytest.raises(loop.UnreadableError, match=r"3 of 4 samples have an image that cannot be read\. Is --images"):
        learn((readable, faulty), (faulty, faulty), (readable, readable))
    with pytest.raises(loop.UnreadableError, match="No image of the validation set"):
        loop.evaluate(make_parallel(objective, recipe, network.device), iter([objective.collate([faulty])]))


@pytest.mark.slow
def test_32_records_are_learnt_by_heart_and_said_back(tmp_path):
    network = load_network(PATH, device="cpu", dtype="float32")
    set_trainable(network, Trainable(language_model=True))
    optimizer = OptimizerRecipe(peak=1e-3, floor=1e-4, num_warmup=5, clip=1.0)
    recipe = Recipe("by heart", "", batch_size=32, micro_batch_size=32, precision="fp32", optimizer=optimizer)
    objective = InstructionObjective(network)
    parallel = make_parallel(objective, recipe, torch.device("cpu"))
    # Answers that no look at the picture gives, each for its question: they can only be learnt.
    rng = random.Random(1)
    words = ["red", "blue", "two", "left", "tree", "cup", "on", "the", "small", "house"]
    rows = make_rows(network.image_size)[:32]
    for number, row in enumerate(rows):
        row["prompts"] = [f"Question number {number}?"]
        row["targets"] = [" " + " ".join(rng.choices(words, k=6)) + "."]
    batch = objective.collate(rows)
    schedule = make_schedule(recipe, 150)
    for step in range(150):
        loss, _ = parallel.backward(batch, batch.num_counted, last=True)
        parallel.step(schedule.at(step))
        if loss / batch.num_counted < 0.02:
            break
    assert loss / batch.num_counted < 0.05
    network.model.eval()
    for row in rows:
        assert greedy(network, row) == row["targets"][0]


def greedy(network, row) -> str:
    """The plainest decoding there is."""
    with torch.no_grad():
        features = network.encode_images(torch.from_numpy(row["pixels"])[None])
        text_ids, text_mask = network.qformer_ids(row["prompts"])
        visual = network.visual_tokens(features, text_ids, text_mask)
        ids = network.prompt_ids(row["prompts"][0])
        said: list[int] = []
        while len(said) < 30:
            embeds = torch.cat([visual, network.embed(torch.tensor([ids + said]))], dim=1)
            best = int(network.language_model(inputs_embeds=embeds).logits[0, -1].argmax())
            if best == network.eos_id:
                break
            said.append(best)
    return network.tokenizer.decode(said)


@pytest.mark.parametrize(
    "wanted",
    [
        Trainable(),
        Trainable(vision_norm=True),
        Trainable(qformer=False, lora=Lora()),
        Trainable(vision=True, language_model=True),
    ],
    ids=["paper", "norm", "lora", "everything"],
)
def test_a_merged_model_computes_what_the_trained_one_did(tmp_path, wanted):
    network = load_network(PATH, device="cpu", dtype="float32")
    names = set_trainable(network, wanted)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.02)
    objective = InstructionObjective(network)
    trained = {name.removeprefix(MODEL): tensor for name, tensor in objective.trained().items()}
    assert sorted(trained) == sorted(names)
    about = About(str(PATH), base_hash(PATH), wanted.beginnings(network), "test", 1, lora=wanted.lora)
    save_trained(tmp_path / "weights", trained, about)
    merge(load_network(PATH, device="cpu", dtype="float32"), tmp_path / "weights", tmp_path / "full")
    merged = load_network(tmp_path / "full", device="cpu", dtype="float32")
    rows = make_rows(network.image_size)[:4]
    untouched = load_network(PATH, device="cpu", dtype="float32")
    losses = []
    with torch.no_grad():
        for one in (network, merged, untouched):
            measured = InstructionObjective(one)
            one.model.eval()  # adapters have dropout
            losses.append(float(measured(measured.collate(rows))[0]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert abs(losses[2] - losses[0]) > 0.1


def test_vig_learns_question_and_answer_and_vic_the_answer():
    rng = random.Random(0)
    told = ("Where is the cup?", "It is on the left. It is red.")
    prompt, target = make_text(PACK, Tasks(paraphrases=False), Task.VIG, Kind.DETAIL, *told, rng)
    assert prompt == PACK.kind(Kind.DETAIL).instruction
    assert target == " Question: Where is the cup? Answer: It is on the left. It is red."
    prompt, target = make_text(PACK, Tasks(), Task.VIC, Kind.DETAIL, *told, rng)
    assert (prompt, target) == ("Question: Where is the cup? Answer:", " It is on the left. It is red.")


def test_vic_learns_to_go_on_from_a_begun_answer_true_or_not():
    told = ("What is there?", "A cup. A tree. A car.")
    begun = {make_text(PACK, Tasks(prefix=1.0), Task.VIC, Kind.DETAIL, *told, random.Random(i)) for i in range(40)}
    tag = "Question: What is there? Answer:"
    assert begun == {(f"{tag} A cup.", " A tree. A car."), (f"{tag} A cup. A tree.", " A car.")}
    noisy = [
        make_text(PACK, Tasks(prefix=1.0, noise=1.0), Task.VIC, Kind.DETAIL, *told, random.Random(i), ["A boat."])
        for i in range(40)
    ]
    assert all("A boat." in prompt and "A boat." not in target for prompt, target in noisy)


def test_knowledge_is_answered_in_the_short_form_and_asked_with_a_begun_word():
    told = ("What is it used for?", "drinking")
    assert make_text(PACK, Tasks(), Task.VIC, Kind.KNOWLEDGE, *told, random.Random(0)) == (
        "Question: What is it used for? Short answer:",
        " drinking",
    )
    texts = {
        make_text(PACK, Tasks(paraphrases=False), Task.VIG, Kind.KNOWLEDGE, *told, random.Random(i)) for i in range(9)
    }
    instruction = PACK.kind(Kind.KNOWLEDGE).instruction
    assert texts == {
        (instruction, " Question: What is it used for? Answer: drinking"),
        (f"{instruction} Question: What", " is it used for? Answer: drinking"),
    }


def test_the_papers_figures_stand_in_the_presets():
    (paper,) = PRESETS["paper_7b"]()
    settings = paper.optimizer
    assert (settings.peak, settings.floor, settings.start, settings.num_warmup) == (3e-5, 1e-5, 1e-6, 500)
    assert (settings.betas, settings.weight_decay, settings.clip) == ((0.9, 0.999), 0.05, 0.0)
    assert (paper.batch_size, paper.micro_batch_size, paper.num_epochs, paper.precision) == (128, 8, 5.0, "fp16")
    (okvqa,) = PRESETS["instructblip_okvqa"]()
    assert okvqa.trainable.vision_norm
    assert (okvqa.num_updates, okvqa.mixture) == (30_000, "sqrt")
    (lora,) = PRESETS["lora_7b"]()
    assert lora.trainable.lora == Lora(8, 16, 0.1, ("q_proj", "k_proj", "v_proj", "o_proj"))


def test_the_rate_warms_up_and_falls_to_its_floor():
    recipe = Recipe("r", "", optimizer=OptimizerRecipe(peak=3e-5, floor=1e-5, start=1e-6, num_warmup=10))
    schedule = make_schedule(recipe, 110)
    assert schedule.at(0) == pytest.approx(1e-6 + 2.9e-6)
    assert schedule.at(9) == pytest.approx(3e-5)
    assert schedule.at(60) == pytest.approx(2e-5)
    assert schedule.at(110) == pytest.approx(1e-5)


def test_counted_arithmetic_agrees_with_what_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    network = load_network(PATH, device="cpu", dtype="float32")
    set_trainable(network, Trainable())
    network.model.set_attn_implementation("eager")
    objective = InstructionObjective(network)
    rows = [{**row, "prompts": row["prompts"], "targets": row["targets"]} for row in make_rows(network.image_size)[:8]]
    batch = objective.collate(rows)
    with FlopCounterMode(display=False) as counter:
        objective(batch)[0].backward()
    # torch also counts padding, the masked half of attention and the vision model's attention.
    assert 0.75 < text_flops(network, batch) / counter.get_total_flops() < 1


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
