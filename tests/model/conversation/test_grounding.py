"""What a sentence owes to the image, against hand-worked scores and on scenes, and what corrections do with it."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

import numpy as np
import pytest

from vigc.model.benchmarks.embedded import generate, held_out_scenes
from vigc.model.completion import Completion, Request, ScoredToken
from vigc.model.conversation.grounding import Grounder, Grounding, make_grounder
from vigc.model.conversation.policy import POLICIES, make_policy
from vigc.model.conversation.vigc import converse
from vigc.model.engines.continuous.engine import ContinuousEngine
from vigc.model.engines.interface import BLANK
from vigc.model.engines.reference import ReferenceEngine
from vigc.model.prompts import PresencePrompt, load_pack
from vigc.model.scenes import render
from vigc.model.scenes.world import CATEGORIES
from vigc.model.sentences import find_end, split_sentences
from vigc.platform.records import ConfigError, Conversation, Kind, Stop

PACK = load_pack()
NAMED = re.compile(rf"\b({'|'.join(CATEGORIES)})(?:s|es)?\b", re.IGNORECASE)
BELIEFS = {"car": 2.0, "dog": -3.0, "tree": 0.5, "cat": -1.0}


def find_objects(text: str) -> list[tuple[str, str]]:
    return [(found[1].lower(), found[0]) for found in NAMED.finditer(text)]


def find_believed(text: str) -> list[tuple[str, str]]:
    return [(word, word) for word in re.findall(r"\w+", text.lower()) if word in BELIEFS]


class Scores:
    """Yes and no as BELIEFS say; any other text a token a word, with the image likelier by its number of letters."""

    def __init__(self, *, blank: bool = False) -> None:
        self.blank, self.asked = blank, []

    async def __call__(self, prompt: str, text: str) -> list[ScoredToken]:
        await asyncio.sleep(0)
        self.asked.append((prompt, text))
        if text in (" Yes", " No"):
            belief = next(value for name, value in BELIEFS.items() if f" {name} " in prompt)
            return [ScoredToken(len(text), belief if text == " Yes" else 0.0)]
        words = list(re.finditer(r"\S+", text))
        return [ScoredToken(word.end(), 0.0 if self.blank else float(len(word[0]))) for word in words]


def grounder(method: Grounding = Grounding.ASKED, scores: Scores | None = None) -> Grounder:
    return Grounder(
        method,
        PACK,
        score=scores or Scores(),
        score_blank=Scores(blank=True),
        find_objects=find_believed,
    )


def test_a_sentence_is_worth_what_its_least_believed_object_is() -> None:
    scores = Scores()
    measured = asyncio.run(grounder(scores=scores).measure("", ["A car and a dog.", "A tree.", "It is nice.", "Dog!"]))
    assert measured == [-3.0, 0.5, None, -3.0]
    assert len(scores.asked) == 6  # yes and no for each of three objects, however often they are named
    assert scores.asked[0][0].endswith("Question: Is there a car in the picture? Answer:")


def test_against_a_blank_image_each_sentence_has_the_mean_gain_of_its_own_tokens() -> None:
    measured = asyncio.run(grounder(Grounding.BLANK).measure("Prompt", ["Ab cdef.", "Ghi jkl mnopq."]))
    assert measured == [(2 + 5) / 2, (3 + 3 + 6) / 3]
    assert asyncio.run(grounder(Grounding.BLANK).measure("Prompt", [])) == []


def test_the_question_is_the_packs() -> None:
    assert PresencePrompt().about("apple") == "Question: Is there an apple in the picture? Short answer:"
    assert PresencePrompt().about("monitor/tv") == "Question: Is there a monitor in the picture? Short answer:"


class Speaker:
    """VIG says its text; VIC goes on with the next sentence, leaving out words it may not say."""

    def __init__(self, vig: str, sentences: list[str]) -> None:
        self.vig, self.sentences = vig, sentences

    async def __call__(self, request: Request) -> list[Completion]:
        if PACK.question_tag not in request.prompt:
            return [Completion(f" Question: What? Answer: {self.vig}", Stop.END, 9, -0.5)]
        number = len(split_sentences(request.prefix))
        if number >= len(self.sentences):
            return [Completion("", Stop.END, 1, -0.1)]
        options = [f" {option}" for option in self.sentences[number].split("|")]
        allowed = [one for one in options if not any(word in one for word in request.suppress)] or options
        chosen = allowed if request.n > 1 else allowed[:1]
        cut = [text[: find_end(text, request.until, final=True)] for text in chosen]
        return [Completion(text, Stop.SENTENCE, 5, -0.1 * place) for place, text in enumerate(cut)]


def spoken(vig: str, sentences: list[str], **options: object) -> Conversation:
    speaker = Speaker(vig, sentences)

    async def complete(request: Request) -> Completion:
        return (await speaker(request))[0]

    policy = make_policy("paper", **options)
    asked = None if policy.grounding is Grounding.NONE else grounder(policy.grounding)
    return asyncio.run(converse(complete, PACK, Kind.DETAIL, policy, candidates=speaker, grounder=asked))


def test_a_denied_sentence_is_said_again_without_its_object() -> None:
    made = spoken("A dog.", ["A car.", "A dog.|A tree.", "The end."], verify=True)
    assert made.answer == "A car. A tree. The end."
    assert [step.kept for step in made.steps] == ["A car.", "", "A tree.", "The end.", ""]
    assert [s.grounding for s in made.sentences] == [2.0, 0.5, None]
    assert [s.grounding for s in made.vig_sentences] == [-3.0]


def test_what_is_denied_again_is_dropped_and_the_model_goes_on_behind_it() -> None:
    made = spoken("A dog.", ["A dog.|A cat.", "A car.", "One more dog.|One more."], verify=True)
    assert made.answer == "A car. One more."


def test_vigs_answer_is_chosen_only_where_less_of_it_is_denied() -> None:
    assert spoken("A car. A tree.", ["A car.", "A dog."], choose=True).answer == "A car. A tree."
    assert spoken("A car. A dog.", ["A tree.", "A dog."], choose=True).answer == "A tree. A dog."
    made = spoken("A car.", ["A dog."], choose=True)
    assert (made.answer, [step.kept for step in made.steps]) == ("A car.", ["", ""])
    assert [one.text for one in made.sentences] == ["A car."]


def test_of_candidates_the_likeliest_that_is_not_denied_wins_and_else_the_least_denied() -> None:
    assert spoken("A dog.", ["A dog.|A tree.|A car."], candidates=3).answer == "A tree."
    assert spoken("A dog.", ["A dog.|A cat."], candidates=2).answer == "A cat."


def test_without_corrections_grounding_changes_no_word() -> None:
    sentences = ["A car.", "A dog.", "A cat."]
    plain, measured = spoken("A dog.", sentences), spoken("A dog.", sentences, grounding=Grounding.ASKED)
    assert (plain.answer, plain.steps) == (measured.answer, measured.steps)
    assert plain.sentences[0].grounding is None
    assert [s.grounding for s in measured.sentences] == [2.0, -3.0, -1.0]


def test_policies_that_cannot_be_are_refused() -> None:
    assert make_policy("paper", verify=True).grounding is Grounding.ASKED
    assert make_policy("paper", verify=True, grounding=Grounding.BLANK).grounding is Grounding.BLANK
    assert POLICIES["paper"].grounding is Grounding.NONE
    with pytest.raises(ConfigError, match="nothing to choose from"):
        make_policy("lean", choose=True)
    with pytest.raises(ConfigError, match="num_beams must be 1"):
        make_policy("shipped", candidates=2)
    with pytest.raises(ConfigError, match="candidates must be at least 1"):
        make_policy("paper", candidates=0)


def test_asking_without_words_to_look_for_is_refused(continuous: ContinuousEngine) -> None:
    with pytest.raises(ConfigError, match="--objects coco"):
        make_grounder(Grounding.ASKED, continuous, BLANK, PACK, None)


def test_yes_and_no_are_read_together_and_score_as_alone(
    continuous: ContinuousEngine, reference: ReferenceEngine
) -> None:
    question = PACK.presence.about("dog")
    pixels = np.asarray(render(held_out_scenes(1, seed=3)[0], continuous.image_size))

    async def scores(engine: ContinuousEngine | ReferenceEngine) -> list[float]:
        async with engine.image(pixels) as image:
            texts = (" Yes", " No", " Yes, there is a dog.")
            scored = await asyncio.gather(*(engine.score(image, question, text) for text in texts))
        return [token.logprob for one in scored for token in one]

    before = continuous.metrics.num_calls
    together = asyncio.run(scores(continuous))
    assert continuous.metrics.num_calls - before <= 2  # what the Q-Former read: yes and no once
    assert np.allclose(together, asyncio.run(scores(reference)), atol=1e-4)


def test_on_scenes_asking_tells_true_sentences_from_untrue_ones(continuous: ContinuousEngine) -> None:
    scenes = held_out_scenes(24, seed=2, debiased=True, hard=True)
    policy = replace(POLICIES["paper"], grounding=Grounding.ASKED, max_steps=1)
    rows = asyncio.run(generate(continuous, PACK, policy, scenes, [Kind.DETAIL], find_objects))
    right, wrong = [], []
    for scene, (talk,) in zip(scenes, rows, strict=True):
        present = {thing.category for thing in scene.objects}
        for sentence in talk.vig_sentences:
            named = {category for category, _ in find_objects(sentence.text)}
            if named:
                assert sentence.grounding is not None
                (right if named <= present else wrong).append(sentence.grounding)
    assert len(wrong) >= 10
    auroc = np.mean([[(r > w) + (r == w) / 2 for r in right] for w in wrong])
    print(f"\n{len(right)} true and {len(wrong)} untrue sentences, AUROC {auroc:.3f}")
    assert auroc >= 0.9
