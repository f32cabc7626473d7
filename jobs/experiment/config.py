"""What `vigc experiment` can be told."""

from __future__ import annotations

from pydantic import model_validator

from vigc.jobs.settings.options import Value
from vigc.jobs.settings.shared import PrintsJson, Tracked
from vigc.platform.records import ConfigError
from vigc.platform.settings import flag


class ExperimentConfig(Tracked, PrintsJson):
    """The settings of `vigc experiment`."""

    out: str = flag("The experiment's folder. The same command again goes on there.")
    model: str | None = flag("The model to fine-tune (LLaVA-style or InstructBLIP).", None, shown="a tiny LLaVA")
    base: tuple[str, ...] = flag("The data that every arm learns.", ())
    base_images: str | None = flag("The folder that image names of the base data are below.", None, metavar="FOLDER")
    images: str | None = flag("The images that data are generated from.", None)
    generated: str | None = flag("A data set of `vigc generate` to use instead of making one.", None, metavar="DATA")
    generator: str | None = flag("The model that generates.", None, shown="the embedded model")
    benchmark: tuple[str, ...] = flag(
        "A benchmark of `vigc evaluate --benchmark` with its files; may be repeated.",
        (),
        metavar="NAME=FILE[,ANNOTATIONS]",
        split=False,
    )
    benchmark_images: str | None = flag("The folder that image names of benchmarks are below.", None, metavar="FOLDER")
    arms: tuple[str, ...] = flag("The arms that are compared.", ("base", "vig", "vic", "filtered"))
    seeds: int = flag("How often each arm is run, with another seed each time.", 3, ge=1)
    updates: int | None = flag("Updates of the weights in each run.", None, ge=1, shown="150 on scenes")
    recipe: str = flag("The recipe that all runs learn by.", "llava_lora")
    options: dict[str, Value] = flag(
        "Change one value of the recipe; may be repeated.", {}, alias="set", metavar="OPTION=VALUE"
    )
    min_grounding: float = flag("The grounding of each sentence that the filter asks for.", 0.0)
    labelled: int = flag("On scenes, how many have answers that all arms learn.", 60, ge=4)
    unlabelled: int = flag("On scenes, how many data are generated from.", 600, ge=4)
    held_out: int = flag("On scenes, how many are held out to evaluate.", 150, ge=4)
    seeing: int = flag("Updates in which the tiny model learns to see.", 200, ge=1)
    workers: int = flag("Processes of each run, each with a GPU if there are any.", 1, ge=1)
    device: str = flag("The device of the models: auto, cpu or cuda.", "auto")

    @model_validator(mode="after")
    def _has_a_budget(self) -> ExperimentConfig:
        if self.updates is None and self.model is not None:
            raise ConfigError("--updates is missing. Say for how many updates each run learns; it is the same for all.")
        return self
