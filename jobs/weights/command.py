"""The verbs of `vigc weights` at the terminal."""

from __future__ import annotations

from typing import Annotated

import typer

from vigc.jobs.terminal import Json, help_end, print_json

weights = typer.Typer(no_args_is_help=True, help="Bring weights in, take them out, put what was trained into a model.")

Dtype = Annotated[
    str | None,
    typer.Option(help="float32, bfloat16 or float16, for all weights.", show_default="as the base is stored"),
]
NewFolder = Annotated[str, typer.Argument(metavar="OUT", help="The model's folder, which does not exist yet.")]


@weights.command(
    "merge",
    epilog=help_end("vigc weights merge run/weights my_model", "vigc weights merge run/weights m --base copies/vicuna"),
)
def merge(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="RUN/weights of `vigc train --out RUN`.")],
    out: NewFolder,
    base: Annotated[
        str | None,
        typer.Option(help="Where the base is, a folder or hub id.", show_default="where it was for the training"),
    ] = None,
    dtype: Dtype = None,
    json_: Json = False,
) -> None:
    """Put trained weights into the model they were trained on, and write it whole. Another base is refused."""
    from vigc.jobs.weights.run import merge_checkpoint

    done = merge_checkpoint(checkpoint, out, base=base, dtype=dtype)
    if json_:
        print_json({"out": str(done.out), **done.made_of})
        return
    typer.echo(f"{done.out}: {done.made_of['base']} with {checkpoint}")
    typer.echo(f"try  vigc generate IMAGES --model {out} --out DATA")


@weights.command(
    "import",
    epilog=help_end(
        "vigc weights import vigc.pth my_model --base Salesforce/instructblip-vicuna-7b --ln-vision identity",
        "vigc weights import stage1.pth my_model --base my_instructblip --ln-vision keep --qformer keep",
    ),
)
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE.pth", help="A LAVIS file of VIGC, InstructBLIP or MiniGPT-4.")],
    out: NewFolder,
    base: Annotated[
        str, typer.Option(help="An InstructBLIP model of the same shape, folder or hub id, for the frozen parts.")
    ],
    ln_vision: Annotated[
        str | None,
        typer.Option(help="Where FILE has no ln_vision: keep (the base's), identity, or a model that has it."),
    ] = None,
    qformer: Annotated[
        str | None,
        typer.Option(help="Where FILE has no queries and Q-Former: keep (the base's), or a model that has them."),
    ] = None,
    dtype: Dtype = None,
    json_: Json = False,
) -> None:
    """Turn a LAVIS file into a model that `--model` takes. Every tensor has to fit, or nothing is written."""
    from vigc.jobs.weights.run import import_lavis

    done = import_lavis(file, out, base=base, ln_vision=ln_vision, qformer=qformer, dtype=dtype)
    if json_:
        print_json({"out": str(done.out), **done.made_of})
        return
    typer.echo(f"{done.out}: {base} with {file}")
    typer.echo(f"try  vigc generate IMAGES --model {out} --out DATA")


@weights.command(
    "export",
    epilog=help_end("vigc weights export run/model vigc.pth", "vigc weights export run/model all.pth --frozen"),
)
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The folder or hub id of an InstructBLIP model.")],
    out: Annotated[str, typer.Argument(metavar="OUT.pth", help="The file to write, which does not exist yet.")],
    ln_vision: Annotated[
        bool, typer.Option("--ln-vision/--no-ln-vision", help="With the vision norm, as in InstructBLIP's files.")
    ] = True,
    frozen: Annotated[bool, typer.Option("--frozen", help="Also the vision and language models.")] = False,
    json_: Json = False,
) -> None:
    """Write queries, Q-Former and projection as a file that LAVIS loads, in fp32."""
    from vigc.jobs.weights.run import export_lavis

    done, num_tensors = export_lavis(model, out, with_ln_vision=ln_vision, with_frozen=frozen)
    if json_:
        print_json({"out": str(done.out), **done.made_of, "num_tensors": num_tensors})
        return
    typer.echo(f"{num_tensors} tensors in {done.out}")
