"""`vigc experiment`: does the data help? The same model learns from a base data set alone and with generated data
beside it, for as many updates, and answers held-out questions.

OUT/experiment.json   what was asked; at the end, what came of it
OUT/material/         on scenes: the labelled, the unlabelled and the held-out set
OUT/model/            on scenes: the tiny model's run, whose model learns
OUT/generated/        the data set, made of images of which nothing is known
OUT/data/ARM.json     what each arm learns beside the base data
OUT/runs/ARM-SEED/    a run of `vigc finetune`, with its evaluations
OUT/report.html       the table as a page

Each part is a job of its own that goes on where it was stopped and is not done twice, so the same command does what is
left. This is the paper's table 1 (arXiv 2308.12714), where the budget is not held equal; here it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from vigc.jobs.evaluate.config import EvaluateConfig
from vigc.jobs.evaluate.run import run_evaluate
from vigc.jobs.experiment.tables import Comparison, compare
from vigc.jobs.train.config import LearnConfig
from vigc.jobs.train.run import CPUS_BESIDE_WORKERS, prepare_environment
from vigc.model.training.recipe import Recipe
from vigc.platform.dataset.request import differences, plain
from vigc.platform.dataset.store import Store
from vigc.platform.evaluation.chair import QUESTION as DESCRIBE
from vigc.platform.exports.examples import clean, question_of
from vigc.platform.exports.llava import SPEAKERS
from vigc.platform.pipeline.hardware import choose_hardware
from vigc.platform.pipeline.ray_session import ray_session
from vigc.platform.quality.settings import FilterSettings
from vigc.platform.records import ConfigError, Kind, RowStatus, StoreError, Verdict
from vigc.platform.storage import LocalFolder
from vigc.platform.storage.files import only_writer, written_whole

RESULT = "experiment.json"
BASE, VIG, VIC, FILTERED = "base", "vig", "vic", "filtered"
ARMS = {
    BASE: "base data alone",
    VIG: "+ generated, VIG's answers",
    VIC: "+ generated, VIC's answers",
    FILTERED: "+ generated, VIC's answers, filtered",
}


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of `vigc evaluate`."""

    name: str
    questions: str
    annotations: str | None = None
    images: str | None = None
    prompt: str | None = None
    max_tokens: int | None = None  # of an answer


@dataclass(frozen=True)
class ScenesSize:
    """The material of an experiment on scenes."""

    num_labelled: int = 60
    num_unlabelled: int = 600
    num_held_out: int = 150
    min_objects: int = 3
    max_objects: int = 9
    seed: int = 60


@dataclass(frozen=True)
class Experiment:
    """What is compared. Nothing named: scenes, with the tiny model."""

    out: str
    recipe: Recipe  # of the runs; its num_updates is the budget of each
    model: str | None = None  # that learns; None: the tiny LLaVA
    base_recipe: Recipe | None = None  # that makes the tiny LLaVA
    base: tuple[str, ...] = ()  # data that every arm learns
    base_images: str | None = None
    images: str | None = None  # that data are generated from
    generator: str | None = None  # None: the embedded model
    generated: str | None = None  # an OUT that is there already
    kinds: tuple[Kind, ...] = (Kind.CONVERSATION, Kind.DETAIL)
    grounding: Literal["none", "asked", "blank"] | None = "blank"  # measured while generating, for the filter
    filters: FilterSettings = field(default_factory=lambda: FilterSettings(min_grounding=0.0))
    benchmarks: tuple[Benchmark, ...] = ()
    arms: tuple[str, ...] = tuple(ARMS)
    seeds: tuple[int, ...] = (0, 1, 2)
    scenes: ScenesSize = ScenesSize()
    cpus_per_worker: int | None = 1
    workers: int = 1
    device: str = "auto"
    tracking: str | None = None


@dataclass(frozen=True)
class Done:
    out: Path
    table: Comparison


OnNote = Callable[[str], None]


def run_experiment(config: Experiment, on_note: OnNote = lambda note: None) -> Done:
    """Does what is left of an experiment, and sums up.

    Raises:
        VigcError: a part of it cannot be done; what is done stays.
    """
    out = Path(config.out).expanduser().absolute()
    _check(config)
    hardware = choose_hardware(config.device)
    on_note(f"On {hardware}.")
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out):
        _claim(out, config)
        tracking = _tracking(config, out, on_note)
        try:
            prepare_environment(hardware.device)
            cpus = config.workers * (config.cpus_per_worker or 1) + CPUS_BESIDE_WORKERS
            # One Ray for all parts, which would start their own otherwise.
            with ray_session(out / "ray.log", cpus, config.workers * hardware.gpus):
                done = _run(replace(config, device=hardware.device), out, on_note, tracking)
        except BaseException:
            if tracking is not None:
                tracking.close(failed=True)
            raise
        if tracking is not None:
            for row in done.table.rows:
                name = f"{row.benchmark}.{row.measure}.{row.part or 'all'}"
                tracking.metrics(0, {f"{name}.{arm}": one.value for arm, one in row.arms.items()})
            tracking.file(out / RESULT)
            tracking.close()
    return done


def _run(config: Experiment, out: Path, on_note: OnNote, tracking: Any) -> Done:
    config = _with_scenes(config, out, on_note)
    model = config.model or _tiny_model(config, out, on_note)
    _write_arms(config, out, _generated(config, out, on_note))
    parent = tracking.run_id(wait_s=10.0) if tracking is not None else None
    for seed in config.seeds:  # whole comparisons first, so that a part of the experiment says something
        for arm in config.arms:
            tuned = _tune(config, out, arm, seed, model, parent, on_note)
            for number, one in enumerate(config.benchmarks):
                _evaluate(config, one, number, tuned, on_note)
    table = compare(out / "runs", config.arms, config.seeds, [one.name for one in config.benchmarks])
    with written_whole(out / RESULT) as stream:
        json.dump({"request": _request(config), **table.as_json()}, stream, indent=2)
    from vigc.platform.report.experiment import write_page

    write_page(out / "report.html", table.as_json(), {arm: ARMS[arm] for arm in config.arms})
    return Done(out, table)


def _check(config: Experiment) -> None:
    if BASE not in config.arms:
        raise ConfigError(f"--arms: {BASE} is what the others are compared with; it cannot be left out.")
    if unknown := [arm for arm in config.arms if arm not in ARMS]:
        raise ConfigError(f"--arms {unknown[0]}: there are {', '.join(ARMS)}.")
    if len(config.seeds) < 1 or len(set(config.seeds)) < len(config.seeds):
        raise ConfigError("--seeds: give each seed once.")
    if not config.recipe.num_updates:
        raise ConfigError("--updates: an equal budget needs a number of updates.")
    own = {"--base": config.base, "--images": config.images or config.generated, "--benchmark": config.benchmarks}
    if any(own.values()) and not all(own.values()):
        lacking = ", ".join(name for name, value in own.items() if not value)
        raise ConfigError(f"{lacking} missing. An experiment is on scenes, or data, images and benchmark are your own.")


def _request(config: Experiment) -> dict[str, Any]:
    """What decides the result. The seeds are not in it: more of them may be added."""
    left_out = ("out", "seeds", "arms", "tracking", "workers", "cpus_per_worker", "device", "benchmarks", "base")
    values = asdict(config) | {"filters": config.filters.as_json()}
    return plain({name: value for name, value in values.items() if name not in left_out})


def _claim(out: Path, config: Experiment) -> None:
    file = out / "request.json"
    if file.exists():
        if changed := differences(json.loads(file.read_text(encoding="utf-8")), _request(config)):
            raise StoreError(
                f"{out} holds another experiment: {'; '.join(changed[:4])}. Give another --out, or the same settings."
            )
        return
    with written_whole(file) as stream:
        json.dump(_request(config), stream, indent=2)


def _with_scenes(config: Experiment, out: Path, on_note: OnNote) -> Experiment:
    if config.benchmarks:
        return config
    from vigc.model.scenes.material import write_held_out, write_labelled, write_unlabelled

    place, size = out / "material", config.scenes
    objects = {"min_objects": size.min_objects, "max_objects": size.max_objects}
    if not (place / "complete").exists():
        on_note(
            f"Scenes: {size.num_labelled} labelled, {size.num_unlabelled} unlabelled, {size.num_held_out} held out."
        )
        write_labelled(place / "labelled", num=size.num_labelled, seed=size.seed, request=DESCRIBE, **objects)
        write_unlabelled(place / "unlabelled", num=size.num_unlabelled, seed=size.seed + 1, **objects)
        write_held_out(place / "held-out", num=size.num_held_out, seed=size.seed + 2, **objects)
        (place / "complete").touch()
    held_out = place / "held-out"
    annotations, images = str(held_out / "annotations.json"), str(held_out / "images")
    return replace(
        config,
        base=(str(place / "labelled" / "labelled.json"),),
        base_images=str(place / "labelled" / "images"),
        images=str(place / "unlabelled" / "images"),
        benchmarks=(
            Benchmark("questions", str(held_out / "questions.jsonl"), None, images, "{question}", 32),
            Benchmark("chair", annotations, annotations, images),
        ),
    )


def _tiny_model(config: Experiment, out: Path, on_note: OnNote) -> str:
    from vigc.jobs.train.plan import fresh_model, make_plan
    from vigc.jobs.train.run import merge_run, run_train

    assert config.base_recipe is not None
    folder = str(out / "model")
    if (out / "model" / "model" / "config.json").is_file():
        return str(out / "model" / "model")
    on_note(f"The tiny model learns to see: {config.base_recipe.num_updates} updates on captions.")
    base = fresh_model(config.base_recipe, folder)
    learn = LearnConfig(out=folder, cpus_per_worker=config.cpus_per_worker, device="cpu", tracking=None)
    plan = make_plan(config.base_recipe, learn, model=base)
    return str(merge_run(plan, run_train(plan, on_note=on_note)))


def _generated(config: Experiment, out: Path, on_note: OnNote) -> Store:
    if config.generated is not None:
        return Store(config.generated)
    from vigc.jobs.generate.config import GenerateConfig
    from vigc.jobs.generate.run import run_generate
    from vigc.platform.tracking import NOT_TRACKED

    assert config.images is not None
    wanted = GenerateConfig(
        images=config.images,
        out=str(out / "generated"),
        model=config.generator,
        kinds=config.kinds,
        grounding=config.grounding,
        objects="none",  # nobody annotated them
        device=config.device,
        tracking=config.tracking or NOT_TRACKED,
    )
    made = run_generate(wanted)
    on_note(f"Generated: {out / 'generated'} ({made.num_made} images of this run).")
    return Store(out / "generated")


def _write_arms(config: Experiment, out: Path, store: Store) -> None:
    """The generated arms in LLaVA's form; the same conversations for VIG and VIC, and fewer of them where filtered."""
    from vigc.jobs.dataset.filter import run_filter

    data = out / "data"
    data.mkdir(exist_ok=True)
    if all((data / f"{arm}.json").is_file() for arm in (VIG, VIC, FILTERED)):
        return
    for arm, key in ((VIG, "vig_answer"), (VIC, "answer")):
        _write_arm(data / f"{arm}.json", store.undecided_rows(_COLUMNS), key)
    run_filter(str(store), config.filters)
    _write_arm(data / f"{FILTERED}.json", store.rows(_COLUMNS), "answer")


_COLUMNS = ("image_id", "uri", "status", "conversations")


def _write_arm(path: Path, rows: Iterable[dict[str, Any]], key: str) -> None:
    human, gpt = SPEAKERS
    records: list[dict[str, Any]] = []
    for row in rows:
        spoken = row["conversations"] if row["status"] == RowStatus.OK else []
        for one in spoken:
            question, answers = clean(question_of(one)), (clean(one["vig_answer"]), clean(one["answer"]))
            # Both answers have to be there, or the arms would not learn from the same conversations.
            if one["status"] == Verdict.KEPT and question and all(answers):
                turns = [{"from": human, "value": f"<image>\n{question}"}, {"from": gpt, "value": clean(one[key])}]
                records.append({"id": f"{row['image_id']}:{one['kind']}", "image": row["uri"], "conversations": turns})
    records.sort(key=lambda record: str(record["id"]))
    with written_whole(path) as stream:
        json.dump(records, stream, indent=1, ensure_ascii=False)


def _tune(config: Experiment, out: Path, arm: str, seed: int, model: str, parent: str | None, on_note: OnNote) -> Path:
    """The tuned model of one run; a finished one is not run again."""
    from vigc.jobs.train.plan import make_plan
    from vigc.jobs.train.run import MODEL_FOLDER, merge_run, run_train

    folder = out / "runs" / f"{arm}-{seed}"
    if (folder / MODEL_FOLDER / "config.json").is_file():
        return folder
    learn = LearnConfig(
        data=(*config.base, *([] if arm == BASE else [str(out / "data" / f"{arm}.json")])),
        out=str(folder),
        images=config.base_images,
        workers=(config.workers, config.workers),
        cpus_per_worker=config.cpus_per_worker,
        device=config.device,
        tracking=config.tracking,
    )
    plan = make_plan(replace(config.recipe, seed=seed), learn, model=model)
    on_note(f"{arm}, seed {seed}: {plan.num_updates} updates on {'; '.join(plan.data.described)}.")
    merge_run(plan, run_train(replace(plan, parent=parent), on_note=on_note))
    return folder


def _evaluate(config: Experiment, one: Benchmark, number: int, run: Path, on_note: OnNote) -> None:
    place = run / "evaluation" / f"{number}-{one.name}"
    if (place / "scores.json").is_file():
        return
    done = run_evaluate(
        EvaluateConfig(
            model=str(run / "model"),
            benchmark=one.name,
            questions=one.questions,
            annotations=one.annotations,
            images=one.images,
            tracking=None,
            template=one.prompt,
            max_tokens=one.max_tokens,
            out=str(place),
            device=config.device,
        )
    )
    headline = done.scores["headline"]
    on_note(f"{run.name}, {one.name}: {headline} {done.scores['scores'][headline]['value']:.3f}.")


def _tracking(config: Experiment, out: Path, on_note: OnNote) -> Any:
    if config.tracking is None:
        return None
    from vigc.platform.tracking import Tracking

    tracking = Tracking(
        config.tracking,
        experiment="vigc experiment",
        name=out.name,
        folder=LocalFolder(str(out)),
        params=_request(config),
        description="Does the data help? The runs below learn with and without it.",
        on_note=on_note,
    )
    tracking.file(out / "request.json")  # something to send, so that the run is there before its children
    return tracking
