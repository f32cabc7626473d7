"""The verbs of `vigc weights` at the terminal."""

from __future__ import annotations

from typing import Literal

import typer

from vigc.jobs.settings.command import Verb
from vigc.jobs.settings.shared import PrintsJson
from vigc.jobs.terminal import print_json
from vigc.platform.settings import flag


class MakesModel(PrintsJson):
    """A verb that writes a whole model."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = flag(
        "The precision of all weights.", None, shown="as the base is stored"
    )


class MergeConfig(MakesModel):
    """The settings of `vigc weights merge`."""

    checkpoint: str = flag("The folder RUN/weights of `vigc train --out RUN`.", positional=True, metavar="CHECKPOINT")
    out: str = flag("The model's folder, which does not exist yet.", positional=True, metavar="OUT")
    base: str | None = flag("Where the base is, a folder or hub id.", None, shown="where it was for the training")


class LavisImportConfig(MakesModel):
    """The settings of `vigc weights import`."""

    file: str = flag("A LAVIS file of VIGC, InstructBLIP or MiniGPT-4.", positional=True, metavar="FILE.pth")
    out: str = flag("The model's folder, which does not exist yet.", positional=True, metavar="OUT")
    base: str = flag("An InstructBLIP model of the same shape, folder or hub id, for the frozen parts.")
    ln_vision: str | None = flag(
        "What stands in where FILE has no ln_vision: keep (the base's), identity, or a model that has it.", None
    )
    qformer: str | None = flag(
        "What stands in where FILE has no queries and Q-Former: keep (the base's), or a model that has them.", None
    )


class LavisExportConfig(PrintsJson):
    """The settings of `vigc weights export`."""

    model: str = flag("The folder or hub id of an InstructBLIP model.", positional=True, metavar="MODEL")
    out: str = flag("The file to write, which does not exist yet.", positional=True, metavar="OUT.pth")
    ln_vision: bool = flag("Write the vision norm, too, as in InstructBLIP's files.", True)
    frozen: bool = flag("Also write the vision and language models.", False)


def merge(config: MergeConfig) -> None:
    """Put trained weights into the model they were trained on, and write it whole. Another base is refused."""
    from vigc.jobs.weights.run import merge_checkpoint

    done = merge_checkpoint(config.checkpoint, config.out, base=config.base, dtype=config.dtype)
    if config.json_:
        print_json({"out": str(done.out), **done.made_of})
        return
    typer.echo(f"{done.out}: {done.made_of['base']} with {config.checkpoint}")
    typer.echo(f"try  vigc generate IMAGES --model {config.out} --out DATA")


def import_(config: LavisImportConfig) -> None:
    """Turn a LAVIS file into a model that `--model` takes. Every tensor has to fit, or nothing is written."""
    from vigc.jobs.weights.run import import_lavis

    done = import_lavis(
        config.file,
        config.out,
        base=config.base,
        ln_vision=config.ln_vision,
        qformer=config.qformer,
        dtype=config.dtype,
    )
    if config.json_:
        print_json({"out": str(done.out), **done.made_of})
        return
    typer.echo(f"{done.out}: {config.base} with {config.file}")
    typer.echo(f"try  vigc generate IMAGES --model {config.out} --out DATA")


def export(config: LavisExportConfig) -> None:
    """Write queries, Q-Former and projection as a file that LAVIS loads, in fp32."""
    from vigc.jobs.weights.run import export_lavis

    done, num_tensors = export_lavis(
        config.model, config.out, with_ln_vision=config.ln_vision, with_frozen=config.frozen
    )
    if config.json_:
        print_json({"out": str(done.out), **done.made_of, "num_tensors": num_tensors})
        return
    typer.echo(f"{num_tensors} tensors in {done.out}")


WEIGHTS = (
    Verb(
        MergeConfig,
        merge,
        ("vigc weights merge run/weights my_model", "vigc weights merge run/weights m --base copies/vicuna"),
    ),
    Verb(
        LavisImportConfig,
        import_,
        (
            "vigc weights import vigc.pth my_model --base Salesforce/instructblip-vicuna-7b --ln-vision identity",
            "vigc weights import stage1.pth my_model --base my_instructblip --ln-vision keep --qformer keep",
        ),
    ),
    Verb(
        LavisExportConfig,
        export,
        ("vigc weights export run/model vigc.pth", "vigc weights export run/model all.pth --frozen"),
    ),
)
