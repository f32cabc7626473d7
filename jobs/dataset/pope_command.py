"""The verb `pope` at the terminal."""

from __future__ import annotations

from typing import Annotated

import typer

from vigc.jobs.terminal import Json, help_end, make_console, print_json

POPE_EXAMPLES = help_end(
    "vigc pope scenes --out pope.jsonl            # pope_random.jsonl, pope_popular.jsonl, pope_adversarial.jsonl",
    "vigc pope coco/val2014 --annotations coco/annotations/instances_val2014.json --out coco_pope.json",
    "vigc pope zhiyuan_objv2_val.json --out probes.jsonl --split adversarial --num-images 2000",
)


def pope(
    images: Annotated[
        str, typer.Argument(metavar="IMAGES", help="Any source of annotated images; see `vigc generate`.")
    ],
    out: Annotated[
        str,
        typer.Option(metavar="FILE", help="Where the probes go; with all splits, each has its name before the suffix."),
    ],
    annotations: Annotated[
        str | None, typer.Option(help="COCO annotation files for the images, with commas between them.")
    ] = None,
    source: Annotated[str, typer.Option(help="auto, folder, coco, manifest, webdataset or huggingface.")] = "auto",
    objects: Annotated[
        str,
        typer.Option(
            metavar="auto|coco|objects365|FILE",
            help="The categories that are asked for; auto: those of the annotations.",
        ),
    ] = "auto",
    num_images: Annotated[int, typer.Option(min=1, help="At most, drawn by --seed.")] = 500,
    num_objects: Annotated[int, typer.Option(min=1, help="Present ones for each image, and as many absent ones.")] = 3,
    split: Annotated[str, typer.Option(help="random, popular, adversarial or all.")] = "all",
    seed: Annotated[int, typer.Option(help="The same seed gives the same probes.")] = 0,
    json_: Json = False,
) -> None:
    """Ask for objects that are there and objects that are not ("Is there a dog in the image?"), as POPE does.

    Absent is what neither a box nor a caption names: any such object, a frequent one, or one that usually comes with
    what is there.
    """
    from dataclasses import asdict

    from vigc.jobs.dataset.pope import run_pope
    from vigc.jobs.dataset.verify import Meter

    meter = Meter(make_console(quiet=json_))
    with meter.shown("images"):
        made = run_pope(
            images,
            out,
            annotations=annotations,
            source=source,
            objects=objects,
            num_images=num_images,
            num_objects=num_objects,
            split=split,
            seed=seed,
            on_progress=meter.report,
        )
    if json_:
        print_json(asdict(made))
        return
    typer.echo(
        f"{made.num_probes} questions about {made.num_images} of {made.num_eligible} images that have enough objects; "
        f"vocabulary {made.vocabulary}"
    )
    for name, file in made.files.items():
        typer.echo(f"{name:<12} {file}")
