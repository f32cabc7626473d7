"""Stage two of the embedded model: words.

With the eyes frozen, the Q-Former, the projection and the language model learn VIG and VIC together, from the same
scenes told two ways. VIC sees its answer begun, as it does at inference. Auxiliary losses ask the first nine visual
tokens what lies in the nine cells, the tenth where we are, and the next two what the prompt is about (for a description
begun: the next object), so that the text decides what is looked for; their heads are thrown away. Scenes are drawn as
they are needed, so nothing is learnt by heart.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, distributed, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from vigc.model.embedded.loss import Sample, average_gradients, language_loss
from vigc.model.embedded.shape import CLIP_MEAN, CLIP_STD, IMAGE_SIZE
from vigc.model.network import Network
from vigc.model.prompts import PromptPack
from vigc.model.scenes.drawing import render
from vigc.model.scenes.wording import CONVERSATION, QuestionAnswer, ask, curious_question, describe, know, reason
from vigc.model.scenes.world import BACKGROUNDS, CATEGORIES, COLOURS, GRID, SIZES, Scene, SceneObject
from vigc.model.sentences import split_sentences
from vigc.model.training import IGNORE, Schedule, make_optimizer
from vigc.platform.records import Kind

SPECIAL = ("<pad>", "<s>", "</s>", "<image>")
VOCABULARY = 1024


@dataclass(frozen=True)
class LanguageRecipe:
    """Budget, mixture and optimiser of stage two."""

    num_steps: int = 1500
    num_scenes: int = 10  # per step and process; each gives about nine texts
    num_questions: int = 6  # short ones per scene
    group_size: int = 32  # texts per forward pass
    learning_rate: float = 1e-3
    auxiliary_weight: float = 0.5
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Text:
    """One thing to learn about a scene: what is read, what is to be said, and what it is about (objects, or a category
    at large).
    """

    prompt: str
    target: str
    about: tuple[SceneObject | str, ...] = ()


class AuxiliaryHeads(nn.Module):
    """Reads the scene and the prompt's subject off the first twelve visual tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cell = nn.Linear(width, len(CATEGORIES) + 1 + len(COLOURS) + len(SIZES))
        self.background = nn.Linear(width, len(BACKGROUNDS))
        # category, cell, colour, size, and how many there are of the category
        self.subject_sizes = [len(CATEGORIES), GRID * GRID, len(COLOURS), len(SIZES), GRID * GRID + 1]
        self.subject = nn.Linear(width, sum(self.subject_sizes))

    def loss(self, visual: Tensor, scenes: list[Scene], texts: list[Text]) -> tuple[Tensor, dict[str, float]]:
        """Summed cross-entropies for visual tokens (batch, num_queries, width), and the shares of right categories."""
        visual = visual.float()
        cells, category_right = self._cells(visual[:, : GRID * GRID], scenes)
        background = torch.tensor([BACKGROUNDS.index(s.background) for s in scenes])
        subjects, cell_right = self._subjects(visual[:, GRID * GRID + 1 : GRID * GRID + 3], scenes, texts)
        total = cells + functional.cross_entropy(self.background(visual[:, GRID * GRID]), background) + subjects
        return total, {"cells_right": category_right, "subjects_found": cell_right}

    def _cells(self, visual: Tensor, scenes: list[Scene]) -> tuple[Tensor, float]:
        category = torch.full((len(scenes), GRID * GRID), len(CATEGORIES))
        colour = torch.full((len(scenes), GRID * GRID), IGNORE)
        size = colour.clone()
        for row, scene in enumerate(scenes):
            for thing in scene.objects:
                category[row, thing.cell] = CATEGORIES.index(thing.category)
                colour[row, thing.cell] = COLOURS.index(thing.colour)
                size[row, thing.cell] = SIZES.index(thing.size)
        parts = self.cell(visual).flatten(0, 1).split([len(CATEGORIES) + 1, len(COLOURS), len(SIZES)], dim=-1)
        losses = [
            functional.cross_entropy(p, w.flatten()) for p, w in zip(parts, (category, colour, size), strict=True)
        ]
        return torch.stack(losses).sum(), float((parts[0].argmax(-1) == category.flatten()).float().mean())

    def _subjects(self, visual: Tensor, scenes: list[Scene], texts: list[Text]) -> tuple[Tensor, float]:
        wanted = torch.full((len(texts), 2, len(self.subject_sizes)), IGNORE)
        for row, (scene, text) in enumerate(zip(scenes, texts, strict=True)):
            for column, subject in enumerate(text.about):
                category = subject if isinstance(subject, str) else subject.category
                wanted[row, column, 0] = CATEGORIES.index(category)
                wanted[row, column, 4] = scene.count(category)
                if isinstance(subject, SceneObject):
                    labels = (subject.cell, COLOURS.index(subject.colour), SIZES.index(subject.size))
                    wanted[row, column, 1:4] = torch.tensor(labels)
        parts = self.subject(visual).flatten(0, 1).split(self.subject_sizes, dim=-1)
        flat = wanted.flatten(0, 1)
        # Summed and divided by all rows, so that a group without subjects weighs nothing instead of being undefined.
        losses = [
            functional.cross_entropy(part, flat[:, i], ignore_index=IGNORE, reduction="sum")
            for i, part in enumerate(parts)
        ]
        placed = flat[:, 1] != IGNORE
        found = float((parts[1].argmax(-1) == flat[:, 1])[placed].float().mean()) if placed.any() else float("nan")
        return torch.stack(losses).sum() / max(1, int((flat[:, 0] != IGNORE).sum())), found


def texts_of(scene: Scene, pack: PromptPack, rng: random.Random, num_questions: int) -> Iterator[Text]:
    """The texts of one scene: VIG and VIC of every kind."""
    for kind, qa in ((Kind.DETAIL, describe(scene, rng)), (Kind.REASONING, reason(scene, rng))):
        if kind is Kind.DETAIL or rng.random() < 0.5:
            yield _vig(pack, kind, qa, rng) if rng.random() < 0.5 else _vic(pack, kind, qa, rng, scene)
    yield _vig(pack, Kind.CONVERSATION, curious_question(scene, rng), rng)
    topics = list(CONVERSATION)
    for topic in rng.sample(topics, min(num_questions, len(topics))):
        if (question := ask(scene, topic, rng)) is not None:
            yield _vic(pack, Kind.CONVERSATION, question, rng, scene)
    if rng.random() < 0.4:
        knowledge = know(scene, rng)
        if rng.random() < 0.5:
            yield _vig(pack, Kind.KNOWLEDGE, knowledge, rng)
        else:
            yield Text(pack.short_answer.format(question=knowledge.question), f" {knowledge.answer}", knowledge.about)


def _vig(pack: PromptPack, kind: Kind, qa: QuestionAnswer, rng: random.Random) -> Text:
    prompts = pack.kind(kind)
    instruction = prompts.instruction
    if prompts.paraphrases and rng.random() < 0.25:
        instruction = rng.choice(prompts.paraphrases)
    whole = f" {pack.question_tag} {qa.question} {pack.answer_tag} {qa.answer}"
    if kind is Kind.KNOWLEDGE and rng.random() < 0.5:  # the question begun with its first word
        begun = f" {pack.question_tag} {qa.question.split()[0]}"
        return Text(instruction + begun, whole[len(begun) :])
    return Text(instruction, whole)


def _vic(pack: PromptPack, kind: Kind, qa: QuestionAnswer, rng: random.Random, scene: Scene) -> Text:
    instruction = "" if rng.random() < 0.3 else pack.kind(kind).instruction
    sentences = split_sentences(qa.answer)
    num_kept = rng.randint(0, len(sentences)) if rng.random() < 0.5 else 0
    begun = "".join(f" {s}" for s in sentences[:num_kept])
    about = qa.about
    if kind is Kind.DETAIL:  # after the opening sentence the objects follow in order: the next one is the subject
        about = scene.objects[num_kept - 1 : num_kept] if num_kept else ()
    return Text(pack.vic_prompt(instruction, qa.question) + begun, f" {qa.answer}"[len(begun) :], about)


def make_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE over these texts; no text is unknown to it, and the little world's words are single tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    pad, bos, eos, image = SPECIAL
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        additional_special_tokens=[image],
        padding_side="left",
    )


def train_language(
    network: Network,
    pack: PromptPack,
    scenes: Iterator[Scene],
    recipe: LanguageRecipe,
    report: Callable[[int, dict[str, float]], None],
) -> None:
    """Trains everything but the vision model in place; `report(step, figures)` is called every 25 steps.

    Under an initialised torch.distributed each process takes its own scenes, and gradients are averaged.
    """
    rank = distributed.get_rank() if distributed.is_initialized() else 0
    torch.manual_seed(recipe.seed)
    rng = random.Random(f"{recipe.seed}/{rank}")
    model = network.model
    model.set_attn_implementation("eager")  # in bf16 faster on a CPU than sdpa, whose backward is slow there
    model.train().requires_grad_(True)
    model.vision_model.eval().requires_grad_(False)
    heads = AuxiliaryHeads(network.language_model.config.hidden_size)
    trained = [p for p in [*model.parameters(), *heads.parameters()] if p.requires_grad]
    optimizer = make_optimizer([model, heads], recipe.learning_rate)
    schedule = Schedule(recipe.learning_rate, recipe.learning_rate / 100, recipe.num_steps, num_warmup=100)
    for step in range(recipe.num_steps):
        schedule.apply(optimizer, step)
        optimizer.zero_grad(set_to_none=True)
        figures = _step(network, heads, pack, [next(scenes) for _ in range(recipe.num_scenes)], recipe, rng)
        average_gradients(trained)
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if step % 25 == 24:
            report(step + 1, figures)
    model.eval().requires_grad_(False)


def _step(
    network: Network,
    heads: AuxiliaryHeads,
    pack: PromptPack,
    scenes: list[Scene],
    recipe: LanguageRecipe,
    rng: random.Random,
) -> dict[str, float]:
    """Adds the gradients of one batch, cut into groups of like length so that little is padding."""
    texts = [(i, text) for i, scene in enumerate(scenes) for text in texts_of(scene, pack, rng, recipe.num_questions)]
    texts.sort(key=lambda item: len(item[1].prompt) + len(item[1].target))
    figures: dict[str, float] = {"texts": float(len(texts))}
    with torch.autocast(network.device.type, dtype=torch.bfloat16):
        with torch.no_grad():
            pixels = torch.from_numpy(np.stack([np.asarray(render(s, IMAGE_SIZE)) for s in scenes]))
            features = network.encode_images(pixels)
        for number, start in enumerate(range(0, len(texts), recipe.group_size)):
            group = texts[start : start + recipe.group_size]
            loss, visual = language_loss(network, features, [Sample(i, text.prompt, text.target) for i, text in group])
            auxiliary, shares = heads.loss(visual, [scenes[i] for i, _ in group], [text for _, text in group])
            ((loss + recipe.auxiliary_weight * auxiliary) * len(group) / len(texts)).backward()
            figures |= {f"loss_{number}": float(loss.detach()), "auxiliary": float(auxiliary.detach()), **shares}
    return figures


def save(network: Network, folder: Path) -> None:
    """Writes a folder that `load_network` reads: fp16 weights, both tokenizers, the image processor."""
    network.model.to(torch.float16).save_pretrained(folder)
    network.tokenizer.save_pretrained(folder)
    network.qformer_tokenizer.save_pretrained(folder / "qformer_tokenizer")
    processor = {
        "image_processor_type": "BlipImageProcessor",
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
    network.model.to(torch.float32)
