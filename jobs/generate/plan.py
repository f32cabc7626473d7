"""A run, thought through before anything heavy starts: every setting checked, nothing written, no torch, and of Ray no
more than a cluster's answer to what it has.

What decides the rows becomes the pass's request and is compared when the command is run again. What may differ between
runs without changing a row (engine, actors, machine, versions) goes into `runs/NNN.json` beside it.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vigc.jobs.generate.config import GenerateConfig, Mode, mode_of
from vigc.jobs.generate.cost import RunPrices, read_prices
from vigc.jobs.ingest.run import open_chosen
from vigc.jobs.settings.config import Flags, read_config
from vigc.jobs.settings.options import changed, read_assignments
from vigc.model.conversation.grounding import NO_OBJECTS, Grounding
from vigc.model.conversation.image import ConversationSettings
from vigc.model.conversation.policy import Policy, make_policy
from vigc.model.cores import num_cores
from vigc.model.engines.choose import choose_model, image_form, with_abilities
from vigc.model.engines.settings import EngineSettings
from vigc.model.weights.identity import Family, ModelIdentity, identify_place, is_endpoint
from vigc.platform.dataset.followup_passes import FailedImages, SameImages
from vigc.platform.dataset.layout import RUNS_FOLDER
from vigc.platform.dataset.request import differences, plain
from vigc.platform.dataset.store import Pass, Store
from vigc.platform.pipeline.graph import IMAGES_PER_SLOT
from vigc.platform.pipeline.hardware import Hardware, choose_hardware
from vigc.platform.records import ConfigError, ImageForm, Kind, StoreError
from vigc.platform.sources import Source
from vigc.platform.storage import Folder, LocalFolder
from vigc.platform.tracking import NOT_TRACKED, is_installed, local_uri
from vigc.platform.vocabulary import Vocabulary, load_vocabulary, vocabulary_of

NUM_CANDIDATES = 4  # of `--correct candidates`
# Flags that say which images are meant, and mean nothing where that follows from a data set.
CHOOSE_IMAGES = ("annotations", "source", "exclude", "limit", "sample", "shard")


@dataclass(frozen=True)
class Plan:
    config: GenerateConfig
    source: Source | None  # None where a pass is continued, which knows its images
    description: str  # of the source
    store: Store
    existing: Pass | None  # the pass this run continues
    num_in_source: int | None  # where a pass is continued and the source can be counted without reading it
    model: ModelIdentity
    engine: EngineSettings  # of each actor
    why_engine: str  # it was chosen, for the user; "": there was no choice
    hardware: Hardware  # of each actor
    conversations: ConversationSettings
    vocabulary: Vocabulary | None  # that objects are named in; None: they are not
    prices: RunPrices
    tracking: str | None  # an MLflow URI
    request: dict[str, Any]
    note: str | None  # for the user, when all is done
    is_idle: bool  # there is nothing to ask; `note` says why

    @property
    def image_form(self) -> ImageForm:
        """What the engine wants of an image."""
        return image_form(self.model.image_size, self.engine.endpoint)

    @property
    def image_side(self) -> int:
        """Of the square that an image is made into, or whose number of pixels it has at most."""
        return self.image_form.side or math.isqrt(self.image_form.max_pixels or 1)

    def with_abilities(self) -> Plan:
        """With what an endpoint can, found out by asking it. Raises as `engines.choose.with_abilities`."""
        if self.engine.engine != "endpoint" or self.engine.endpoint is None:
            return self
        endpoint = with_abilities(self.engine.endpoint)
        if self.config.budget is not None and endpoint.abilities is not None and not endpoint.abilities.usage:
            raise ConfigError(
                f"{endpoint.url} does not say how many tokens a request takes: --budget cannot be kept. Leave it out."
            )
        return replace(self, engine=replace(self.engine, endpoint=endpoint))


def make_plan(config: GenerateConfig) -> Plan:
    """Checks everything that can be checked without loading the model.

    Raises:
        VigcError: with what is wrong, where, and what to do.
    """
    policy = policy_of(config)
    store = Store(config.out)
    hardware = (
        choose_hardware("cpu", "auto", 0)
        if is_endpoint(config.model)
        else choose_hardware(config.device, config.dtype, config.gpus_per_actor)
    )
    earlier_runs = [run for one in store.passes() for run in runs_of(one)]
    chosen = choose_model(config, on_gpu=hardware.is_gpu, earlier_runs=earlier_runs)
    pack = chosen.pack
    model = identify_place(chosen.place, earlier_runs)
    if chosen.engine != "reference" and policy.num_beams > 1:
        raise ConfigError(
            f"The policy {policy.name!r} decodes with {policy.num_beams} beams, which the {chosen.engine} engine "
            "cannot. Add --engine reference, or --set num_beams=1."
        )
    if chosen.endpoint is not None and policy.grounding is Grounding.BLANK:
        raise ConfigError("--grounding blank needs a model that runs here; behind a server use --grounding asked.")
    source, kinds = _source_of(config, store)
    config = config.model_copy(update={"kinds": kinds})
    for kind in kinds:
        pack.kind(kind)
    request = {
        "source": source.describe(),
        "kinds": [str(kind) for kind in kinds],
        "model": {"name": model.name, "weights": model.weights, **_of_server(model)},
        "dtype": None if chosen.engine == "endpoint" else hardware.dtype,
        "prompts": {"name": pack.name, "hash": pack.hash},
        "policy": asdict(policy),
        "seed": config.seed,
    }
    vocabulary = _vocabulary(config, store, source)
    if policy.grounding is Grounding.ASKED and vocabulary is None:
        raise ConfigError(NO_OBJECTS)
    if vocabulary is not None:
        request["objects"] = {"vocabulary": vocabulary.name, "hash": vocabulary.hash}
    if config.max_pixels is not None:
        request["max_pixels"] = config.max_pixels
    prices = read_prices(
        model.name,
        per_hour=config.price,
        token_price=config.token_price,
        table=config.prices,
        budget=config.budget,
        is_endpoint=chosen.engine == "endpoint",
    )
    engine = chosen.engine_settings(
        config,
        device=hardware.device,
        dtype=hardware.dtype,
        num_gpus=math.ceil(hardware.gpus),
        num_threads=max(1, num_cores() // config.actors[1]),
    )
    if (begun := prices.most_images_begun(len(kinds))) is not None:
        engine = replace(engine, num_slots=max(1, min(engine.most_slots, begun // IMAGES_PER_SLOT)))
    existing, note, is_idle = _pass_at(config, store, source, request)
    return Plan(
        config=config,
        source=source if existing is None else None,
        description=source.describe(),
        store=store,
        existing=existing,
        num_in_source=None if existing is None else source.num_images(),
        model=model,
        engine=engine,
        why_engine=chosen.why,
        hardware=hardware,
        conversations=ConversationSettings(pack, policy, kinds, config.seed),
        vocabulary=vocabulary,
        prices=prices,
        tracking=tracking_uri(config.tracking, store.folder),
        request=request,
        note=note,
        is_idle=is_idle,
    )


def _of_server(model: ModelIdentity) -> dict[str, Any]:
    """What a request says of a model that reads an image once, before the text, and of one behind an endpoint."""
    reads = {} if model.family is Family.INSTRUCTBLIP else {"reads_image": "once"}
    return reads | ({} if model.server is None else {"server": model.server})


def tracking_uri(given: str | None, out: Folder) -> str | None:
    """Where MLflow keeps the run, by flag, by MLFLOW_TRACKING_URI, or else beside the data set if that is on a disk.

    Raises:
        ConfigError: it is asked for, and MLflow is not installed.
    """
    asked = given or os.environ.get("MLFLOW_TRACKING_URI")
    if asked == NOT_TRACKED:
        return None
    if asked and not is_installed():
        raise ConfigError(
            f"The run is to be shown at {asked}, but MLflow is not installed. `pip install 'vigc[track]'` brings its "
            "client; --tracking none goes on without."
        )
    return asked if asked or not isinstance(out, LocalFolder) else local_uri(out.path.parent)


def _source_of(config: GenerateConfig, store: Store) -> tuple[Source, tuple[Kind, ...]]:
    """Where the images come from, and the kinds that are asked for."""
    if config.mode is Mode.RETRY_FAILED:
        failed = FailedImages(store)
        return failed, tuple(Kind(kind) for kind in failed.kinds)
    if config.mode is Mode.ADD_KIND:
        return SameImages(store), config.kinds
    return open_chosen(config.images, config), config.kinds


def _vocabulary(config: GenerateConfig, store: Store, source: Source) -> Vocabulary | None:
    """What objects are named in. Left to itself, a data set goes on with what it began with."""
    if config.objects == "none":
        return None
    if config.objects != "auto":
        return load_vocabulary(config.objects)
    if isinstance(source, FailedImages | SameImages):
        return source.passes[-1].vocabulary()
    if config.mode in (Mode.CONTINUE, Mode.RESUME):
        for one in reversed(store.passes()):
            if one.request["source"] == source.describe():
                return one.vocabulary()
    return vocabulary_of(source.categories() or ())


def _pass_at(
    config: GenerateConfig, store: Store, source: Source, request: dict[str, Any]
) -> tuple[Pass | None, str | None, bool]:
    """The pass that this run continues, what the user should know in the end, and whether there is no more to it."""
    if isinstance(source, FailedImages):
        if source.num_images() == 0:
            return None, f"No image of {store} failed, so there is nothing to retry.", True
        existing = source.unfinished
        if existing is not None and (changed := differences(existing.request, plain(request))):
            raise StoreError(
                f"{store} holds a retry that is not finished, begun with other settings: {'; '.join(changed)}. "
                "Finish it with those first."
            )
        if source.num_left:
            note = f"{source.num_left} images failed for other kinds; the same command again retries those."
            return existing, note, False
    elif config.mode in (Mode.NEW, Mode.ADD_KIND):
        existing = store.pass_with(request)
        if existing is None and config.mode is Mode.NEW:
            _refuse_repetition(store, request)
        if existing is None and isinstance(source, SameImages) and source.have(request):
            kinds = ", ".join(request["kinds"])
            return None, f"{store} was asked for {kinds} in this way already; there is nothing to add.", True
    else:
        existing = None if config.mode is Mode.OVERWRITE else store.find_pass(request)
        if config.mode is Mode.RESUME and existing is None:
            raise StoreError(f"{store} holds no data set that could be resumed. Leave --resume out to begin one.")
    return existing, None if existing is None else _newer(store, existing), False


def _refuse_repetition(store: Store, request: dict[str, Any]) -> None:
    """Raises ConfigError: a pass was asked for the same but for a seed that nothing is drawn by."""
    policy = request["policy"]
    if policy["temperature"] > 0 or policy["candidates"] > 1:
        return
    for one in store.existing_passes():
        changed = differences(one.request, plain(request))
        if len(changed) == 1 and changed[0].startswith("seed:"):
            raise ConfigError(
                f"--new: without sampling another seed changes no word, so this pass would repeat pass {one.number}. "
                "Add --temperature 0.7, or other settings."
            )


def _newer(store: Store, existing: Pass) -> str | None:
    newer = [one for one in store.passes() if int(one.number) > int(existing.number)]
    kinds = set(existing.request["kinds"])
    numbers = " and ".join(one.number for one in newer if kinds & set(one.request["kinds"]))
    if not numbers:
        return None
    return f"Pass {numbers} is newer than this one, {existing.number}; where both answer, the newer counts."


def policy_of(config: GenerateConfig) -> Policy:
    """The preset with the options that were set, each read as the type of its field."""
    flags: dict[str, Any] = {name: getattr(config, name) for name in ("temperature", "top_p", "grounding")}
    flags = {name: value for name, value in flags.items() if value is not None}
    flags |= {way: NUM_CANDIDATES if way == "candidates" else True for way in config.correct}
    if twice := [name for name in flags if name in config.policy_options]:
        raise ConfigError(f"{twice[0]} is given twice, as a flag and with --set. Leave one out.")
    options = config.policy_options | flags
    wanted = changed(make_policy(config.policy), options, fixed=("name",))
    return make_policy(config.policy, **{name: getattr(wanted, name) for name in options})


def settings_again(flags: Flags, file: Path | None) -> GenerateConfig:
    """The settings of the newest run at OUT, given as IMAGES or with --out, where this command gives no others."""
    mode, out = mode_of(flags), flags.get("images") or flags.get("out")
    if not out or flags.get("out", out) != out:
        what = f"--{mode} {','.join(flags['add-kind']) or 'KINDS'}" if mode is Mode.ADD_KIND else f"--{mode}"
        raise ConfigError(f"--{mode} needs OUT, the data set, once and nothing else: vigc generate {what} OUT.")
    if refused := [name for name in (*CHOOSE_IMAGES, "kinds") if name in flags]:
        raise ConfigError(f"--{refused[0]} does not go with --{mode}: images and kinds follow from the data set.")
    runs = [run for one in Store(out).existing_passes() for run in runs_of(one)]
    if not runs:
        raise ConfigError(f"{out} does not say how it was made, so --{mode} cannot go on from there. Use --new.")
    newest = sorted(runs, key=lambda run: str(run["started"]))[-1]
    earlier = {
        name: value for name, value in newest["config"].items() if name not in CHOOSE_IMAGES and value is not None
    }
    given = {**flags, "images": earlier["images"], "out": out}
    if earlier.get("model"):
        earlier["model"] = newest["model"]["location"]
    if "policy" in flags:
        del earlier["set"]  # options of another policy
    elif "set" in flags:
        given["set"] = earlier["set"] | read_assignments(flags["set"])
    if mode is Mode.ADD_KIND:
        given["kinds"] = flags["add-kind"]
    return read_config(GenerateConfig, given, file, earlier)


def runs_of(one: Pass) -> list[dict[str, Any]]:
    """What the runs of a pass noted about themselves, oldest first."""
    runs = []
    for name in one.folder.names(RUNS_FOLDER):
        path = f"{RUNS_FOLDER}/{name}"
        try:
            runs.append(json.loads(one.folder.read(path)))
        except ValueError as error:
            raise StoreError(
                f"{one.folder}/{path}: not JSON ({error}). It is a note about an earlier run; delete it."
            ) from error
    return runs
