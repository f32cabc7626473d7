"""Our scores beside those of a public scorer, lmms-eval, on the same replies.

    pip download --no-deps lmms-eval==0.7.3
    python tests/benchmarks/scripts/compare_scorers.py lmms_eval-0.7.3-py3-none-any.whl --json FILE

Three of its modules are read from the wheel, which is not installed: it would bring other versions of much that we use.
Replies are made up so as to meet the rules' odd corners: marks, commas, contractions, numbers, articles, letters. Where
two scores differ, the words that make the difference are counted, and the first few are printed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import types
import zipfile
from collections import Counter
from pathlib import Path

from vigc.platform.evaluation import mmbench
from vigc.platform.evaluation.choices import parse_letter
from vigc.platform.evaluation.items import Item, Reply
from vigc.platform.evaluation.pope import says_yes
from vigc.platform.evaluation.vqa_rules import accuracy, matches, normalise
from vigc.platform.records import AnswerStyle

NUM = 20_000
WORDS = (
    "a",
    "an",
    "the",
    "red",
    "Blue",
    "two",
    "three",
    "ten",
    "none",
    "no",
    "yes",
    "10",
    "1,000",
    "3.5",
    "2:30",
    "don't",
    "dont",
    "couldnt've",
    "couldntve",
    "its",
    "it's",
    "man's",
    "men",
    "cats",
    "black/white",
    "left-hand",
    "(right)",
    '"stop"',
    "what?",
    "o'clock",
    "oclock",
    "somebody'd",
    "Im",
    "St.",
    "Mr.",
    "U.S.",
    "t-shirt",
    "dog's",
    "frisbee,",
    "ski",
    "snow.",
    "wooden",
)
MARKS = ("", "", "", "", ",", ".", "?", "!", ";", " ,", " .")
OPTIONS = ("a red car", "a blue car", "car", "two dogs", "dogs", "none of these", "left", "right", "A man", "B")
SAYING = (
    "{}",
    "{}.",
    "({})",
    "The answer is {}.",
    "{} and nothing else",
    "Answer: {}",
    "A dog and {} there",
    "{}: yes",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rng = random.Random(1)
    found = {"scorer": given.wheel.name, "replies": NUM}
    found |= compare_vqa(module(given.wheel, "lmms_eval/tasks/_task_utils/vqa_eval_metric.py"), rng)
    found |= compare_pope(module(given.wheel, "lmms_eval/tasks/pope/utils.py"), rng)
    found |= compare_mmbench(module(given.wheel, "lmms_eval/tasks/mmbench/mmbench_evals.py"), rng)
    text = json.dumps(found, indent=2)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n", encoding="utf-8")


def module(wheel: Path, name: str) -> types.ModuleType:
    sys.modules.setdefault("loguru", types.SimpleNamespace(logger=types.SimpleNamespace(info=lambda *_: None)))  # type: ignore[arg-type]
    made = types.ModuleType(Path(name).stem)
    exec(zipfile.ZipFile(wheel).read(name).decode(), made.__dict__)
    return made


def said(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) + rng.choice(MARKS) for _ in range(rng.choice((1, 1, 1, 2, 2, 3))))


def compare_vqa(theirs: types.ModuleType, rng: random.Random) -> dict[str, object]:
    """Normalised answers, and the accuracy of a reply by ten people's answers with each left out in turn."""
    processor = theirs.EvalAIAnswerProcessor()
    odd: Counter[str] = Counter()
    examples: list[list[str]] = []
    ours_mean, theirs_mean, num_equal = [], [], 0
    for _ in range(NUM):
        answers = [said(rng) for _ in range(3)]
        people = [rng.choice(answers) for _ in range(10)]
        reply = rng.choice((*answers, said(rng)))
        if (mine := normalise(reply)) != (other := processor(reply)):
            odd[why(reply)] += 1
            if len(examples) < 8:
                examples.append([reply, mine, other])
        ours_mean.append(accuracy(matches(reply, people), "official"))
        equal = [processor(one) == processor(reply) for one in people]
        theirs_mean.append(statistics.mean(min(1.0, (sum(equal) - one) / 3) for one in equal))
        num_equal += abs(ours_mean[-1] - theirs_mean[-1]) < 1e-9
    return {
        "vqa_replies_normalised_alike": 1 - sum(odd.values()) / NUM,
        "vqa_difference_by_cause": dict(odd),
        "vqa_examples": examples,
        "vqa_accuracies_alike": num_equal / NUM,
        "vqa_accuracy": statistics.mean(ours_mean),
        "vqa_accuracy_theirs": statistics.mean(theirs_mean),
    }


def why(reply: str) -> str:
    """lmms-eval's rules are those of MMF, which takes some marks out before the challenge's own rules."""
    if "'s" in reply.lower():
        return "'s, which it sets apart as a word"
    if "," in reply or "?" in reply:
        return "comma or question mark, which it drops first"
    return "other"


def compare_pope(theirs: types.ModuleType, rng: random.Random) -> dict[str, object]:
    """Replies of one word, as lmms-eval compares whole replies."""
    rows = [(rng.choice(("yes", "no")), rng.choice(("Yes", "No", "yes", "no"))) for _ in range(NUM)]
    results = [
        theirs.pope_process_results({"answer": label, "question_id": number}, [reply])["pope_accuracy"]
        for number, (label, reply) in enumerate(rows)
    ]
    pairs = [(label == "yes", says_yes(reply)) for label, reply in rows]
    hits, positives, yes = (
        sum(label and said for label, said in pairs),
        sum(label for label, _ in pairs),
        sum(said for _, said in pairs),
    )
    ours = {
        "accuracy": statistics.mean(label == said for label, said in pairs),
        "precision": hits / yes,
        "recall": hits / positives,
        "f1_score": 2 * hits / (yes + positives),
    }
    gaps = [abs(value - getattr(theirs, f"pope_aggregate_{name}")(results)) for name, value in ours.items()]
    return {"pope_largest_difference": max(gaps)}


def compare_mmbench(theirs: types.ModuleType, rng: random.Random) -> dict[str, object]:
    """Which option a reply means; and the circular score of questions whose replies both read."""
    judge = theirs.MMBench_Evaluator()
    odd, examples, num_alike = Counter[str](), [], 0
    for _ in range(NUM):
        choices = rng.sample(OPTIONS, 4)
        meant = rng.randrange(4)
        reply = rng.choice(SAYING).format(
            rng.choice(("ABCD"[meant], choices[meant], f"{'ABCD'[meant]}. {choices[meant]}"))
        )
        item = dict(zip("ABCD", choices, strict=True)) | {"prediction": reply}
        mine, other = parse_letter(reply, choices), judge.prefetch_answer(item)
        mine_letter = "ABCD"[mine] if mine is not None else False
        num_alike += mine_letter == other
        if mine_letter != other:
            odd[f"we {mine_letter or 'none'}, it {other or 'none'}" if not (mine_letter and other) else "another"] += 1
            if len(examples) < 8:
                examples.append([reply, " | ".join(choices), mine_letter, other])
    return {
        "mmbench_replies_read_alike": num_alike / NUM,
        "mmbench_differences": dict(odd),
        "mmbench_examples": examples,
        **compare_circular(judge, rng),
    }


def compare_circular(judge: object, rng: random.Random) -> dict[str, object]:
    items, rows, replies = [], [], []
    for index in range(500):
        choices, correct = rng.sample(OPTIONS[:8], 4), rng.randrange(4)
        category = rng.choice(list(mmbench.ABILITIES))
        for turn in range(4):
            turned = choices[turn:] + choices[:turn]
            right = (correct - turn) % 4
            letter = "ABCD"[right if rng.random() < 0.85 else rng.randrange(4)]
            truth = {"group": index, "choices": turned, "correct": right}
            part = mmbench.ABILITIES[category]
            items.append(Item(f"{index}/{turn}", f"{index}", "", "", AnswerStyle.LETTER, json.dumps(truth), part))
            replies.append(Reply(letter))
            rows.append(
                dict(zip("ABCD", turned, strict=True))
                | {"index": index + turn * mmbench.ROTATED, "answer": "ABCD"[right], "prediction": letter}
                | {"category": "any", "l2-category": category, "question": ""}
            )
    scored = mmbench.score(list(zip(items, replies, strict=True)), {})
    ours = {
        (metric.name, metric.part): sum(row[1] for row in metric.rows) / sum(row[2] for row in metric.rows)
        for metric in scored.metrics
    }
    overall, _, by_ability = judge.eval_result(rows, "static")  # type: ignore[attr-defined]
    gaps = [abs(ours[("circular", mmbench.ABILITIES[name])] - value) for name, value in by_ability.items()]
    return {
        "mmbench_circular": ours[("circular", "")],
        "mmbench_circular_theirs": float(overall),
        "mmbench_largest_difference_of_an_ability": max(gaps),
    }


if __name__ == "__main__":
    main()
