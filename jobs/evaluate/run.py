"""`vigc evaluate`: a model, a benchmark, metrics with intervals.

The same call begins an evaluation, goes on with one that was interrupted, and finds that a finished one is finished:
questions are a pass like that of `vigc generate`, so what is committed is not asked again. Scoring follows from what is
stored and is repeated at will.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vigc.jobs.evaluate.config import EvaluateConfig, JudgeConfig
from vigc.jobs.machine import git_commit, versions
from vigc.model.cores import num_cores
from vigc.platform.evaluation import benchmark
from vigc.platform.evaluation.items import Answered, Files, Item
from vigc.platform.pipeline.hardware import Hardware, choose_hardware
from vigc.platform.records import AnswerStyle, ConfigError, StoreError
from vigc.platform.storage import Folder, LocalFolder, open_folder
from vigc.platform.text_lines import read_lines

MAX_SIDE = 1344  # pixels of the longer side, of images that go out whole
EMBEDDED = "embedded"


@dataclass(frozen=True)
class Evaluated:
    out: str
    scores: dict[str, Any]  # as in scores.json
    num_asked: int  # images of this run
    seconds: float


OnProgress = Callable[[Any], None]
OnNote = Callable[[str], None]


def run_evaluate(
    config: EvaluateConfig, *, on_progress: OnProgress | None = None, on_note: OnNote = lambda note: None
) -> Evaluated:
    """Asks what is not answered yet, and scores.

    Args:
        on_progress: called about once a second with a pipeline.Progress, from another thread.
        on_note: called with a line that a person should read.
    Raises:
        VigcError: a file, a setting, the model or OUT cannot be used, or the run broke off.
        KeyboardInterrupt: with a note on how far the run is.
    """
    from vigc.platform.evaluation.folder import existing_pass, read_items

    _check(config)
    folder = open_folder(config.out)
    hardware = _hardware(config)
    request, kind = _request(config, hardware)
    if config.overwrite and existing_pass(folder) is not None:
        folder.delete_all()
    existing = existing_pass(folder)
    if existing is None:
        existing = _begin(config, folder, request)
    else:
        _refuse_another(folder, existing.request, request)
    started, before = time.monotonic(), existing.remaining()
    if before:
        items = read_items(folder)
        if kind != "endpoint":
            on_note(f"{request['model']['name']} on {hardware}, {hardware.dtype}")
        _ask(config, kind, hardware, folder, existing, items, on_progress)
    scores = rescore(config.out, judge=config.judge, seed=config.seed)
    seconds = time.monotonic() - started
    if config.tracking:
        _track(config, folder, scores)
    return Evaluated(str(folder), scores, before, seconds)


def rescore(out: str, *, judge: JudgeConfig | None = None, seed: int = 0) -> dict[str, Any]:
    """Scores what is stored, without the model; writes scores.json and predictions.parquet anew.

    Raises:
        StoreError: there is no evaluation, or it is not finished.
        ConfigError: judgements are lacking and there is no judge.
    """
    from vigc.platform.evaluation.folder import (
        existing_pass,
        read_items,
        read_replies,
        write_predictions,
        write_scores,
    )
    from vigc.platform.evaluation.intervals import as_scores

    folder = open_folder(out)
    items = read_items(folder)
    pass_ = existing_pass(folder)
    if pass_ is None:
        raise StoreError(f"{folder} holds no evaluation that was begun. Run `vigc evaluate` first.")
    answered = read_replies(pass_, items)
    rules = benchmark(pass_.request["benchmark"])
    options = dict(pass_.request["options"])
    judge_name = ""
    if hasattr(rules, "cases"):
        judge_name, options["judged"] = _judge(folder, answered, rules, options, judge or JudgeConfig())
    scored = rules.score(answered, options)
    num_failed = sum(reply.error is not None for _, reply in answered)
    scores = {
        "benchmark": pass_.request["benchmark"],
        "model": pass_.request["model"],
        "headline": rules.HEADLINE,
        "num_questions": len(answered),
        "num_failed": num_failed,
        **({"judge": judge_name} if judge_name else {}),
        **as_scores(scored, seed),
    }
    write_predictions(folder, answered, scored.item_scores)
    write_scores(folder, scores)
    return scores


def _check(config: EvaluateConfig) -> None:
    benchmark(config.benchmark)
    if _is_endpoint(config.model) and not config.endpoint_model:
        raise ConfigError("--endpoint-model is missing. Say which of the endpoint's models is meant.")


def _is_endpoint(model: str) -> bool:
    return model.startswith(("http://", "https://"))


def _request(config: EvaluateConfig, hardware: Hardware) -> tuple[dict[str, Any], str]:
    """What decides the replies, and the kind of the model."""
    from vigc.model.conversation.policy import make_policy
    from vigc.model.prompts import load_pack

    model, kind = _identify(config)
    request: dict[str, Any] = {
        "benchmark": config.benchmark,
        "model": model,
        "kind": kind,
        "dtype": hardware.dtype if kind != "endpoint" else None,
        "files": {
            name: {"path": value, "sha256": _hash_of(value)}
            for name in ("questions", "annotations", "references", "context")
            if (value := getattr(config, name)) is not None
        },
        "images": config.images,
        "objects": config.objects,
        "limit": config.limit,
        "prompt": config.template,
        "max_tokens": config.max_tokens,
        "options": {"difficult": config.difficult},
    }
    if kind == "instructblip":
        pack = load_pack(config.prompts)
        policy = asdict(make_policy(config.policy))
        request |= {"prompts": {"name": pack.name, "hash": pack.hash}, "policy": policy}
    return request, kind


def _identify(config: EvaluateConfig) -> tuple[dict[str, Any], str]:
    if _is_endpoint(config.model):
        return {"name": config.endpoint_model, "location": config.model}, "endpoint"
    from vigc.model.files.weight_files import find_weights, hash_files
    from vigc.model.weights.identity import identify

    folder = Path(config.model).expanduser()
    architecture = ""
    if config.model != EMBEDDED and (folder / "config.json").is_file():
        try:
            architecture = json.loads((folder / "config.json").read_bytes()).get("model_type", "")
        except ValueError as error:
            raise ConfigError(f"{folder / 'config.json'}: not JSON ({error}). Get the file again.") from error
    if architecture and architecture != "instructblip":
        return {"name": folder.name, "weights": hash_files(find_weights(folder.absolute()))}, "transformers"
    found = identify(None if config.model == EMBEDDED else config.model)
    return {"name": found.name, "weights": found.weights}, "instructblip"


def _hash_of(value: str) -> str | None:
    """sha256 of a file, or of the names and bytes of a folder's own files; None of anything that is not here."""
    path = Path(value).expanduser()
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.glob("*.json*")):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    elif path.is_file():
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    else:
        return None
    return digest.hexdigest()


def _begin(config: EvaluateConfig, folder: Folder, request: dict[str, Any]) -> Any:
    """Reads the benchmark and writes down what is to be asked; the pass's own request comes last."""
    from vigc.platform.dataset.passes import write_pass
    from vigc.platform.evaluation.folder import IMAGES_FOLDER, PASS_FOLDER, records_of, write_items
    from vigc.platform.sources.base import Records

    def save(name: str, content: bytes) -> str:
        folder.write(f"{IMAGES_FOLDER}/{name}", content)
        return f"{folder}/{IMAGES_FOLDER}/{name}"

    files = Files(
        questions=Path(config.questions).expanduser(),
        annotations=config.annotations,
        images=config.images,
        references=config.references,
        context=config.context,
        objects=config.objects,
        save=save,
    )
    options = dict(request["options"])
    items: list[Item] = benchmark(config.benchmark).read(files, options)[: config.limit]
    write_items(folder, items)
    return write_pass(folder / PASS_FOLDER, {**request, "options": options}, Records(records_of(items)))


def _refuse_another(folder: Folder, there: dict[str, Any], request: dict[str, Any]) -> None:
    """What reading the benchmark found out (`options`) is not the user's to compare."""
    from vigc.platform.dataset.request import differences, plain

    options = {name: there["options"].get(name) for name in request["options"]}
    if changed := differences({**there, "options": options}, plain(request)):
        raise StoreError(
            f"{folder} holds another evaluation: {'; '.join(changed[:4])}. Choose another --out, or add --overwrite."
        )


def _hardware(config: EvaluateConfig) -> Hardware:
    if _is_endpoint(config.model):
        return Hardware("cpu", "float32", 0, "the model is elsewhere")
    return choose_hardware(config.device, config.dtype)


def _ask(
    config: EvaluateConfig,
    kind: str,
    hardware: Hardware,
    folder: Folder,
    pass_: Any,
    items: list[Item],
    on_progress: OnProgress | None,
) -> None:
    from vigc.jobs.evaluate.endpoint import endpoint_settings
    from vigc.jobs.evaluate.worker import LONG_TOKENS, SHORT_TOKENS, EvaluateSettings, EvaluateWorker
    from vigc.model.conversation.policy import make_policy
    from vigc.model.engines.settings import EngineSettings
    from vigc.model.prompts import load_pack
    from vigc.model.weights.identity import identify
    from vigc.platform.evaluation.images import whole_images
    from vigc.platform.images.decode import decode_batch
    from vigc.platform.pipeline import run as pipeline

    model, image_size = config.model, MAX_SIDE
    if kind == "instructblip":
        found = identify(None if config.model == EMBEDDED else config.model)
        model, image_size = found.location, found.image_size
    elif kind == "transformers":
        model = str(Path(config.model).expanduser().absolute())
    endpoint, max_tokens = None, config.max_tokens
    if kind == "endpoint":
        is_long = any(item.style in (AnswerStyle.DETAIL, AnswerStyle.REASONING) for item in items)
        max_tokens = max_tokens or (LONG_TOKENS if is_long else SHORT_TOKENS)
        endpoint = endpoint_settings(config.model, str(config.endpoint_model), concurrency=config.slots)
    settings = EvaluateSettings(
        folder=folder,
        engine=EngineSettings(
            engine="continuous" if kind == "instructblip" else kind,
            model=model,
            device=hardware.device,
            dtype=hardware.dtype,
            num_slots=config.slots,
            num_threads=max(1, num_cores() // config.actors[1]),
        ),
        pack=load_pack(config.prompts),
        policy=make_policy(config.policy),
        template=config.template,
        max_tokens=max_tokens,
        endpoint=endpoint,
    )
    pass_.add_run({"versions": versions(), "git_commit": git_commit(), "device": hardware.device})
    graph = pipeline.Graph(
        worker=EvaluateWorker,
        worker_args=(settings,),
        image_size=image_size,
        num_slots=config.slots,
        min_actors=config.actors[0],
        max_actors=config.actors[1],
        gpus_per_actor=hardware.gpus,
        decode=decode_batch if kind == "instructblip" else whole_images,
    )
    pipeline.run(pass_, graph, on_progress=on_progress)


def _judge(
    folder: Folder, answered: Answered, rules: Any, options: dict[str, Any], config: JudgeConfig
) -> tuple[str, dict[str, str]]:
    """The judge's name, and its replies by case; none where nothing has to be judged, or MMBench has no judge."""
    from vigc.jobs.evaluate.endpoint import Endpoint, endpoint_settings
    from vigc.platform.evaluation.folder import JUDGEMENTS_FILE
    from vigc.platform.evaluation.judging import Judgements

    if config.url is not None and config.model is None:
        raise ConfigError("--judge-model is missing. Say which of the endpoint's models judges.")
    if config.model is None and rules.__name__.endswith("mmbench"):
        return "", {}  # its rules do without
    if not isinstance(folder, LocalFolder):
        raise ConfigError(f"{folder}: judgements are kept on this machine. Name a local folder with --out.")
    file = folder.path / JUDGEMENTS_FILE
    recorded = [Path(one).expanduser() for one in config.recorded]
    if absent := [one for one in recorded if not one.is_file()]:
        raise ConfigError(f"--judgements {absent[0]}: no such file.")
    name = config.model or _recorded_judge([*recorded, file])
    judgements = Judgements(name, [*recorded, file], file)

    async def run() -> dict[str, str]:
        cases = rules.cases(answered, options)
        if config.url is None:
            return await judgements.of(cases, None)
        endpoint = Endpoint(endpoint_settings(config.url, name), max_tokens=1024, temperature=0.2)
        try:
            return await judgements.of(cases, endpoint.ask)
        finally:
            await endpoint.close()

    return name, asyncio.run(run())


def _recorded_judge(files: list[Path]) -> str:
    """Whose judgements are recorded, where nobody says."""
    for file in files:
        if file.is_file() and (lines := read_lines(file)):
            try:
                return str(json.loads(lines[0])["judge"])
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"{file}: line 1 is no judgement ({error}).") from error
    return ""


def _track(config: EvaluateConfig, folder: Folder, scores: dict[str, Any]) -> None:
    from vigc.platform.tracking import Tracking

    if not isinstance(folder, LocalFolder):
        raise ConfigError(f"{folder}: a run on MLflow is remembered on this machine. Name a local folder with --out.")
    params = {name: scores[name] for name in ("benchmark", "model", "num_questions", "num_failed")}
    name = f"{scores['model']['name']} on {config.benchmark}"
    with Tracking(str(config.tracking), experiment="vigc-evaluate", name=name, folder=folder, params=params) as run:
        run.metrics(0, metrics_of(scores))
        run.file(folder.path / "scores.json")


def metrics_of(scores: dict[str, Any]) -> dict[str, float]:
    """As MLflow takes them: `official`, `official.low`, `official.high`, `part/official`."""
    found: dict[str, float] = {}
    for part, metrics in (("", scores["scores"]), *scores["parts"].items()):
        for name, one in metrics.items():
            if one is not None:
                stem = f"{part}/{name}" if part else name
                found |= {stem: one["value"], f"{stem}.low": one["low"], f"{stem}.high": one["high"]}
    return found
