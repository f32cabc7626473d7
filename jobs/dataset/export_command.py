"""The flags of `vigc export` and `vigc validate`."""

from __future__ import annotations

from typing import Annotated

import typer

from vigc.jobs.terminal import NOT_OK, Json, help_end, make_console, print_json

EXPORT_EXAMPLES = help_end(
    "vigc export data --format llava",
    "vigc export data --format sharegpt --multi-turn --to train.json --check",
    "vigc export data --format huggingface --to s3://bucket/dataset",
    "vigc export data --format preference --per sentence --to pairs",
)
VALIDATE_EXAMPLES = help_end(
    "vigc validate llava_v1_5_mix665k.json --images images",
    "vigc validate train.jsonl --open 1000 --tokenizer vicuna --max-tokens 2048 --tokens-per-image 576",
    "vigc validate train.json --images coco --open all --exclude-like coco/val2014 --findings findings.jsonl",
)


def export(
    out: Annotated[str, typer.Argument(metavar="OUT", help="The dataset directory that `vigc generate` wrote.")],
    format: Annotated[
        str,
        typer.Option(help="llava, sharegpt, openai, parquet (a file); webdataset, huggingface, preference (a folder)."),
    ] = "llava",
    to: Annotated[
        str | None,
        typer.Option("--to", "--out", help="File or folder; may be s3:// or gs://.", show_default="OUT/exports/FORMAT"),
    ] = None,
    multi_turn: Annotated[
        bool, typer.Option("--multi-turn", help="All kinds of an image in one conversation.")
    ] = False,
    embed: Annotated[
        bool, typer.Option("--embed", help="openai: the pictures themselves instead of their addresses.")
    ] = False,
    per: Annotated[str, typer.Option(help="preference: pairs of whole answers, or per sentence.")] = "answer",
    shard_mb: Annotated[int, typer.Option(min=1, help="Of a folder's files, about.")] = 512,
    check: Annotated[bool, typer.Option("--check", help="Read it back and check it.")] = False,
    json_: Json = False,
) -> None:
    """Write the kept conversations in a trainer's format. File or folder appear when they are complete."""
    from vigc.jobs.dataset.export import run_export
    from vigc.jobs.terminal import Counting
    from vigc.platform.exports import Options, Per
    from vigc.platform.records import ConfigError

    if per not in tuple(Per):
        raise ConfigError(f"--per {per}: use {' or '.join(Per)}.")
    options = Options(multi_turn=multi_turn, embed=embed, per=Per(per), shard_bytes=shard_mb * 2**20)
    with Counting(make_console(quiet=json_), "examples") as counting:
        done = run_export(out, format, to, options, check=check, on_progress=counting.report)
    if json_:
        print_json(
            {
                "file": done.place,
                "num_examples": done.num_examples,
                "left_out": done.left_out,
                "image_folder": done.image_folder,
                "checked": check,
            }
        )
        return
    typer.echo(f"{done.num_examples} examples in {done.place}{', checked' if check else ''}")
    for why, num in done.left_out.items():
        typer.echo(f"left out: {num} {why}")
    if done.image_folder and format in ("llava", "sharegpt"):
        typer.echo(f"images below {done.image_folder}")


def validate(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="LLaVA, ShareGPT, OpenAI messages or preference pairs: JSON, JSON Lines, Parquet, a folder of it.",
        ),
    ],
    images: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="That relative paths of images start from.")
    ] = None,
    open_: Annotated[
        str, typer.Option("--open", metavar="N|all", help="Also open so many images, evenly drawn.")
    ] = "0",
    tokenizer: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="A transformers tokenizer, to say how long rows are.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longer rows are faults.")] = None,
    tokens_per_image: Annotated[int, typer.Option(min=0, help="What an image takes of the context.")] = 0,
    exclude: Annotated[
        str | None, typer.Option(metavar="FILE", help="Ids of images not to train on: lines, JSON, Parquet or CSV.")
    ] = None,
    exclude_like: Annotated[
        str | None,
        typer.Option(metavar="IMAGES", help="Evaluation images, any source; needs --open."),
    ] = None,
    findings: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write every finding there, as JSON Lines.")
    ] = None,
    json_: Json = False,
) -> None:
    """Say what would trip a trainer in a file of training data, anyone's, with row numbers. Exits 1 on a fault."""
    from vigc.jobs.dataset.validate import in_words, run_validate
    from vigc.jobs.terminal import Counting
    from vigc.platform.exports.validate import as_json

    with Counting(make_console(quiet=json_), "rows") as counting:
        found = run_validate(
            file,
            images=images,
            open_images=open_,
            tokenizer=tokenizer,
            max_tokens=max_tokens,
            tokens_per_image=tokens_per_image,
            exclude=exclude,
            exclude_like=exclude_like,
            findings=findings,
            on_progress=counting.report,
        )
    if json_:
        print_json(as_json(found))
    else:
        for line in in_words(found):
            typer.echo(line)
    if not found.is_ok:
        raise typer.Exit(NOT_OK)
