"""What `vigc evaluate` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import model_validator

from vigc.jobs.settings.shared import PrintsJson, Tracked
from vigc.platform.records import ConfigError
from vigc.platform.settings import Counts, flag


@dataclass(frozen=True)
class JudgeConfig:
    """Who judges, and what is recorded already."""

    url: str | None = None
    model: str | None = None
    recorded: tuple[str, ...] = ()  # files of judgements to replay


class EvaluateConfig(Tracked, PrintsJson):
    """The settings of one `vigc evaluate`."""

    model: str = flag(
        "A folder or hub id of an InstructBLIP or VIGC model, the folder of any image-text-to-text model of "
        "transformers, the address of an OpenAI-compatible endpoint (http://HOST/v1), or `embedded`.",
        "",
        positional=True,
        metavar="MODEL",
    )
    benchmark: str = flag(
        "The benchmark: okvqa, vqav2, aokvqa, mmbench, llava, pope, chair, or questions, a file of your own.", ""
    )
    questions: str = flag("The benchmark's file of questions, as published; for chair the annotated images.", "")
    out: str = flag("The folder where the evaluation goes. The same command again continues there.", "")
    annotations: str | None = flag("The file of answers (okvqa, vqav2), or COCO annotations (chair).", None)
    images: str | None = flag(
        "The folder that image names are below; for COCO the one above val2014.",
        None,
        metavar="FOLDER",
        shown="the folder of the questions",
    )
    references: str | None = flag("The file of reference answers, for llava.", None, metavar="FILE")
    context: str | None = flag(
        "The file of captions and boxes, or of captions, that llava's judge sees.", None, metavar="FILE"
    )
    objects: str = flag("The categories that chair counts.", "auto", metavar="auto|coco|objects365|FILE")
    difficult: Literal["direct", "choice", "none"] = flag(
        "The part of aokvqa in which difficult questions are left out.", "direct"
    )
    limit: int | None = flag("Ask only the first N questions.", None, ge=1, shown="all")
    endpoint_model: str | None = flag("The name of the model at the endpoint.", None)
    template: str | None = flag(
        "How all questions are put; a text with {question} in it.", None, metavar="TEXT", shown="by model"
    )
    prompts: str | None = flag(
        "A prompt pack (YAML), for InstructBLIP and VIGC.", None, metavar="FILE", shown="the project's own"
    )
    policy: str = flag("How free answers of InstructBLIP and VIGC are made.", "paper")
    max_tokens: int | None = flag("The most tokens of an answer.", None, ge=1, shown="by question")
    judge_url: str | None = flag("The address of an endpoint that judges, for llava and mmbench.", None)
    judge_model: str | None = flag("The name of the model that judges.", None)
    judgements: tuple[str, ...] = flag("Recorded judgements to replay.", (), metavar="FILE,…")
    device: str = flag("The device of the model: auto, cpu or cuda.", "auto")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = flag(
        "The precision of the model; auto: bfloat16 on a GPU, else float32.", "auto"
    )
    slots: int = flag("How many questions an actor answers at once.", 16, ge=1)
    actors: Counts = flag("Processes that each hold the model; between MIN and MAX as there is work.", (1, 1))
    seed: int = flag("The seed of the intervals.", 0, ge=0)
    rescore: str | None = flag(
        "Score a stored evaluation again, without the model.", None, metavar="EVALUATION", in_file=False
    )
    overwrite: bool = flag("Replace the evaluation at OUT.", False, in_file=False)

    @property
    def judge(self) -> JudgeConfig:
        return JudgeConfig(self.judge_url, self.judge_model, self.judgements)

    @model_validator(mode="after")
    def _is_whole(self) -> EvaluateConfig:
        needed = {"MODEL": self.model, "--benchmark": self.benchmark, "--questions": self.questions, "--out": self.out}
        if self.rescore is not None:
            if self.model:
                raise ConfigError("--rescore takes a stored evaluation and no model. Leave MODEL out.")
        elif lacking := [name for name, value in needed.items() if not value]:
            raise ConfigError(f"{lacking[0]} is missing. See `vigc evaluate --help`.")
        if self.template is not None and "{question}" not in self.template:
            raise ConfigError("--template must hold {question}, where the question goes.")
        return self
