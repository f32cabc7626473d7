"""Recipes: everything that decides what a training run does, as small typed values with their sources.

A recipe is printed by `vigc train --recipe NAME --print` and changed by `--set optimizer.peak=1e-5`. The figures of the
presets are those of the paper's code (model/README.md, "Training") unless their comment says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from vigc.model.embedded.scene_rows import TextMixture
from vigc.model.embedded.shape import SHIPPED, ModelShape
from vigc.model.training.trainable import Trainable
from vigc.model.weights.adapters import Lora

VICUNA_7B = "Salesforce/instructblip-vicuna-7b"
VICUNA_13B = "Salesforce/instructblip-vicuna-13b"
LLAVA_7B = "llava-hf/llava-1.5-7b-hf"
ON_DATA = ("instructions", "chat")  # objectives


@dataclass(frozen=True)
class OptimizerRecipe:
    """AdamW, linear warm-up, cosine. Steps are updates of the weights: the paper's code counts micro-steps, so its 1000
    warm-up steps at accumulation 2 are 500 here.
    """

    peak: float = 3e-5  # learning rate
    floor: float = 1e-5
    start: float = 1e-6  # at the first update
    num_warmup: int = 500
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.05  # not on vectors
    clip: float = 0.0  # largest norm of the gradient; 0: none, as in the paper's code
    # Learning rate of the layers' matrices under Muon, as a multiple of what AdamW gets for the rest; 0: AdamW for all.
    muon: float = 0.0


@dataclass(frozen=True)
class Tasks:
    """How a record becomes texts. VIG: instruction → question and answer. VIC: question → answer (model/README.md, "Two
    tasks").
    """

    vig: float = 1.0  # weight of each task beside the other
    vic: float = 1.0
    with_instruction: float = 0.0  # share of VIC texts with the instruction before the question, as at inference (Q6)
    prefix: float = 0.0  # share of VIC answers of several sentences that are already begun in the prompt (Q6)
    noise: float = 0.0  # share of those whose beginning has a sentence of another record in it
    paraphrases: bool = True  # draw among the pack's wordings of an instruction


@dataclass(frozen=True)
class Augment:
    """What happens to images in training (model/README.md, "Images")."""

    min_scale: float = 0.5  # of the image's area that a random crop keeps; 1: the whole image
    flip: float = 0.5  # never where the texts speak of left and right (Q21)


@dataclass(frozen=True)
class Recipe:
    """One training run, or one stage of it."""

    name: str
    about: str
    stage: str = ""  # of a recipe with several: each goes on with the model that the one before it left
    base: str = VICUNA_7B  # the model that is trained on; --model
    fresh: ModelShape | None = None  # start from a new embedded model of this shape instead
    # "instructions" and "chat" (of a LLaVA-style model) learn from data, the others from rendered scenes.
    objective: Literal["instructions", "chat", "eyes", "words", "captions", "scene_chat"] = "instructions"
    max_turns: int = 32  # questions about one image that a chat learns in one sequence
    texts: TextMixture = field(default_factory=TextMixture)  # of one scene, for "words" and "scene_chat"
    auxiliary_weight: float = 0.5  # of the loss on what the visual tokens say, beside "words"
    trainable: Trainable = field(default_factory=Trainable)
    tasks: Tasks = field(default_factory=Tasks)
    augment: Augment = field(default_factory=Augment)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    mixture: Literal["size", "sqrt"] = "size"  # weight of each data set: its size, or the square root of it
    batch_size: int = 128  # samples per update, over all workers
    micro_batch_size: int = 8  # samples per worker that go forward and backward at once
    num_epochs: float = 5.0
    num_updates: int | None = None  # instead of epochs
    precision: Literal["fp32", "bf16", "fp16"] = "fp16"
    parallel: Literal["ddp", "fsdp", "zero0", "zero1", "zero2", "zero3"] = "ddp"
    gradient_checkpointing: bool = False
    evaluate_every: int = 500  # updates; 0: only at the end
    num_evaluated: int = 2048  # validation samples
    max_unreadable: float = 0.02  # share of the samples so far whose image cannot be read; with more the run stops
    checkpoint_every: int = 500  # updates
    # What the run leaves is stored in: the trained weights (none: fp32) and a merged model (none: as its base).
    saved_as: Literal["float32", "bfloat16", "float16"] | None = None
    patience: int = 0  # evaluations without a better one after which training stops; 0: never
    seed: int = 42


def paper_7b() -> tuple[Recipe, ...]:
    return (
        Recipe(
            "paper_7b",
            "VIGC of the paper: LLaVA data told as VIG and VIC, 5 epochs of both, 8 x 8 x 2 samples per update",
            saved_as="bfloat16",
        ),
    )


def paper_13b() -> tuple[Recipe, ...]:
    return (Recipe("paper_13b", "the same with a language model of 13B", base=VICUNA_13B, saved_as="bfloat16"),)


def instructblip_okvqa() -> tuple[Recipe, ...]:
    return (_instructblip("instructblip_okvqa", "InstructBLIP on LLaVA data and OKVQA"),)


def instructblip_aokvqa() -> tuple[Recipe, ...]:
    return (_instructblip("instructblip_aokvqa", "InstructBLIP on LLaVA data and A-OKVQA"),)


def _instructblip(name: str, about: str) -> Recipe:
    """60,000 micro-steps at accumulation 2: 30,000 updates; sets drawn by the square roots of their sizes."""
    return Recipe(
        name, about, trainable=Trainable(vision_norm=True), mixture="sqrt", num_updates=30_000, saved_as="bfloat16"
    )


def lora_7b() -> tuple[Recipe, ...]:
    """The paper's LoRA variant: the Q-Former stays frozen."""
    trainable = Trainable(qformer=False, projection=True, lora=Lora())
    about = "low-rank adapters in the language model, Q-Former frozen"
    return (Recipe("lora_7b", about, trainable=trainable, saved_as="bfloat16"),)


def embedded() -> tuple[Recipe, ...]:
    """The model that ships, from nothing but rendered scenes: first the eyes, then the words."""
    rates = OptimizerRecipe(peak=1e-3, floor=1e-5, start=1e-5, num_warmup=100, betas=(0.9, 0.98), clip=1.0, muon=10.0)
    eyes = Recipe(
        "embedded",
        "the embedded model's vision transformer learns what lies in each patch",
        stage="eyes",
        base="",
        fresh=SHIPPED,
        objective="eyes",
        trainable=Trainable(qformer=False, projection=False, vision=True),
        optimizer=rates,
        batch_size=64,
        micro_batch_size=32,
        num_updates=1500,
        precision="bf16",
        checkpoint_every=250,
        seed=0,
    )
    words = replace(
        eyes,
        about="the rest of it learns VIG and VIC, with the eyes frozen",
        stage="words",
        fresh=None,
        objective="words",
        trainable=Trainable(language_model=True),
        optimizer=replace(rates, muon=4.0),  # at 10 this stage becomes unstable before the rate falls
        batch_size=16,
        micro_batch_size=8,
        num_updates=1600,
        checkpoint_every=100,
        saved_as="float16",
        seed=1,
    )
    return eyes, words


def llava_lora() -> tuple[Recipe, ...]:
    """LLaVA-1.5's own LoRA settings (arXiv 2310.03744's release): every linear layer of the language model, one epoch
    of 128 conversations, no decay. The projector learns at the same rate as the adapters; there it has a tenth of it.
    """
    linear = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    return (
        Recipe(
            "llava_lora",
            "a LLaVA-style model tuned on question-answer data: projector, and low-rank adapters in the language model",
            base=LLAVA_7B,
            objective="chat",
            trainable=Trainable(qformer=False, lora=Lora(rank=128, alpha=256, dropout=0.05, targets=linear)),
            tasks=Tasks(vig=0.0),
            augment=Augment(min_scale=1.0, flip=0.0),
            optimizer=OptimizerRecipe(peak=2e-4, floor=0.0, start=0.0, num_warmup=30, weight_decay=0.0, clip=1.0),
            num_epochs=1.0,
            precision="bf16",
            parallel="zero2",
            gradient_checkpointing=True,
            saved_as="bfloat16",
        ),
    )


def llava_full() -> tuple[Recipe, ...]:
    """LLaVA-1.5's second stage: projector and the whole language model at 2e-5."""
    (recipe,) = llava_lora()
    about = "a LLaVA-style model tuned on question-answer data: projector and language model"
    trainable = Trainable(qformer=False, language_model=True)
    optimizer = replace(recipe.optimizer, peak=2e-5)
    return (
        replace(recipe, name="llava_full", about=about, trainable=trainable, optimizer=optimizer, parallel="zero3"),
    )


def instructblip_answers() -> tuple[Recipe, ...]:
    """An InstructBLIP or VIGC model as the downstream model of tables 2 and 4: it learns answers, not to ask."""
    (recipe,) = instructblip_okvqa()
    about = "an InstructBLIP model tuned on questions and answers: Q-Former, projection and vision norm"
    return (
        replace(
            recipe,
            name="instructblip_answers",
            about=about,
            tasks=Tasks(vig=0.0),
            mixture="size",
            num_updates=None,
            num_epochs=1.0,
        ),
    )


def tiny_llava() -> tuple[Recipe, ...]:
    """A LLaVA-style model for two cores: the embedded model's eyes and words, joined by a projector that learns to show
    the one to the other on captions of scenes, as LLaVA's first stage does. It is asked nothing, so it cannot answer.
    """
    return (
        Recipe(
            "tiny_llava",
            "a tiny LLaVA-style model learns to caption scenes: its projector and its language model",
            base="",
            objective="captions",
            trainable=Trainable(qformer=False, language_model=True),
            optimizer=OptimizerRecipe(1e-3, 1e-5, 1e-5, 50, (0.9, 0.98), clip=1.0, muon=4.0),
            batch_size=16,
            micro_batch_size=16,
            num_updates=200,
            precision="fp32",
            checkpoint_every=100,
            seed=50,
        ),
    )


def scene_llava() -> tuple[Recipe, ...]:
    """A LLaVA-style model for two cores that makes data: VIG, VIC and yes-or-no questions about scenes, in the words of
    the prompt pack for chats.
    """
    (captions,) = tiny_llava()
    return (
        replace(
            captions,
            name="scene_llava",
            about="a tiny LLaVA-style model learns to ask, answer, correct and judge about scenes",
            objective="scene_chat",
            texts=TextMixture(num_questions=5, num_presence=3),
            micro_batch_size=8,
            num_updates=1000,
            precision="bf16",
            seed=60,
        ),
    )


PRESETS = {
    f.__name__: f
    for f in (
        paper_7b,
        paper_13b,
        instructblip_okvqa,
        instructblip_aokvqa,
        lora_7b,
        llava_lora,
        llava_full,
        instructblip_answers,
        tiny_llava,
        scene_llava,
        embedded,
    )
}
