"""What `vigc train` and `vigc finetune` can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from vigc.jobs.settings.options import Value
from vigc.jobs.settings.shared import PrintsJson, Tracked
from vigc.platform.records import ConfigError, Kind
from vigc.platform.settings import Counts, flag


class LearnConfig(Tracked, PrintsJson):
    """The settings of a training run."""

    data: tuple[str, ...] = flag(
        "What is learnt: JSON files of LLaVA, A-OKVQA, OKVQA, VQAv2 or VIGC, or data sets of `vigc generate`.", ()
    )
    out: str = flag("The run's folder. The same command again continues there.", "", metavar="RUN")
    validation: str | None = flag("Held-out data, which decide the best checkpoint.", None)
    images: str | None = flag(
        "The folder that image names are below.", None, metavar="FOLDER", shown="the folder of the JSON file"
    )
    options: dict[str, Value] = flag(
        "Change one value of the recipe; may be repeated.", {}, alias="set", metavar="OPTION=VALUE"
    )
    workers: Counts = flag("Processes, each with a GPU if there are any; between MIN and MAX as many as fit.", (1, 1))
    cpus_per_worker: int | None = flag(
        "Cores for each process.", None, ge=1, shown="1; all where there is one process and no GPU"
    )
    device: str = flag("The device of the model: auto, cpu or cuda.", "auto")
    max_failures: int = flag("How many workers may be lost before the run gives up.", 8, ge=0)


class TrainConfig(LearnConfig):
    """The settings of `vigc train`."""

    recipe: str = flag("The preset that is trained by; `--print` shows what it says.")
    kind: Kind | None = flag("The kind of all records, where files do not say it.", None, metavar="KIND")
    model: str | None = flag("The model to start from.", None, shown="the recipe's base")
    prompts: str | None = flag("A prompt pack (YAML).", None, metavar="FILE", shown="the project's own")
    merge: bool = flag("Also write a full model to RUN/model.", False)
    print_: bool = flag("Show the recipe as it would run, and stop.", False, in_file=False)

    @model_validator(mode="after")
    def _goes_somewhere(self) -> TrainConfig:
        if not self.out and not self.print_:
            raise ConfigError("--out is missing. Say where the run goes.")
        return self


class FinetuneConfig(LearnConfig):
    """The settings of `vigc finetune`."""

    model: str = flag(
        "A LLaVA-style or an InstructBLIP model: a folder, or a hub id.", positional=True, metavar="MODEL"
    )
    out: str = flag("The run's folder. The same command again continues there.", metavar="RUN")
    answers: Literal["vic", "vig"] = flag(
        "The answers of a generated data set that are learnt: corrected ones (vic), or those before (vig).", "vic"
    )
    top_k: int | None = flag("Learn the best K of several weighted answers to a question.", None, ge=1, shown="all")
    min_score: float | None = flag(
        "Leave out questions whose best answer has no higher weight.", None, ge=0, shown="none are left out"
    )
    recipe: str | None = flag(
        "The preset that is trained by; see `vigc train --recipe NAME --print`.",
        None,
        shown="llava_lora or instructblip_answers",
    )
    merge: bool = flag("Write the whole tuned model to RUN/model.", True)
