"""The verb `serve` at the terminal: its flags, most of which are fields of ServeSettings."""

from __future__ import annotations

from typing import Annotated

import typer

from vigc.jobs.terminal import INTERRUPTED, Json, help_end, make_console, print_json
from vigc.serve.settings import ServeSettings

WHAT, HOW, WHO = "What answers", "How it runs", "Who may ask what"
SERVE_EXAMPLES = help_end(
    "vigc serve",
    "vigc serve --model Salesforce/instructblip-vicuna-7b --replicas 1:8",
    "VIGC_API_KEYS=one,two vigc serve --host 0.0.0.0 --allow-host '*.wikimedia.org'",
)


def _default(name: str) -> str:
    return str(ServeSettings.model_fields[name].default)


def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all.", rich_help_panel=WHO)] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port.", rich_help_panel=WHO)] = 8000,
    model: Annotated[
        str | None,
        typer.Option(
            help="A folder or hub id of an InstructBLIP model.",
            show_default="the embedded model",
            rich_help_panel=WHAT,
        ),
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help="A prompt pack (YAML).", show_default="the project's own", rich_help_panel=WHAT)
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="Where a request names none: paper, verified, lean or shipped.",
            show_default=_default("policy"),
            rich_help_panel=WHAT,
        ),
    ] = None,
    grounding: Annotated[
        str | None,
        typer.Option(
            metavar="none|asked|blank",
            help="Where a request names none; as of vigc generate.",
            show_default="the policy's",
            rich_help_panel=WHAT,
        ),
    ] = None,
    objects: Annotated[
        str | None,
        typer.Option(
            help="What objects are named in: none, coco, objects365, a file (YAML), or auto.",
            show_default="auto: the embedded model's words, or coco",
            rich_help_panel=WHAT,
        ),
    ] = None,
    samples: Annotated[
        bool | None,
        typer.Option("--samples/--no-samples", help="Offer scenes to try.", show_default="yes", rich_help_panel=WHAT),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="As of vigc generate.", show_default=_default("engine"), rich_help_panel=HOW),
    ] = None,
    vllm_python: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Of --engine vllm.",
            show_default="VIGC_VLLM_PYTHON, or .venv-vllm/bin/python",
            rich_help_panel=HOW,
        ),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(
            help="Conversations that a replica decodes at once.", show_default=_default("slots"), rich_help_panel=HOW
        ),
    ] = None,
    engine_memory: Annotated[
        float | None,
        typer.Option(metavar="GIB", help="Of a replica.", show_default="what is free", rich_help_panel=HOW),
    ] = None,
    replicas: Annotated[
        str | None,
        typer.Option(
            metavar="N|MIN:MAX",
            help="Processes that each hold the model; between MIN and MAX as there are requests.",
            show_default="1; of the embedded model on a CPU one for each core, at most 4",
            rich_help_panel=HOW,
        ),
    ] = None,
    gpus_per_replica: Annotated[
        float | None,
        typer.Option(help="May be a fraction.", show_default="1 if there is a GPU, else 0", rich_help_panel=HOW),
    ] = None,
    gateways: Annotated[
        int | None,
        typer.Option(
            help="Processes that speak HTTP and decode images.",
            show_default=_default("gateways"),
            rich_help_panel=HOW,
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.", rich_help_panel=HOW)] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="auto, float32, bfloat16 or float16.",
            show_default="bfloat16 on a GPU, else float32",
            rich_help_panel=HOW,
        ),
    ] = None,
    max_ongoing: Annotated[
        int | None,
        typer.Option(
            help="Requests that a replica works on at once.",
            show_default=_default("max_ongoing"),
            rich_help_panel=HOW,
        ),
    ] = None,
    max_queued: Annotated[
        int | None,
        typer.Option(
            help="Requests that wait for a replica; what is more gets status 503.",
            show_default=_default("max_queued"),
            rich_help_panel=HOW,
        ),
    ] = None,
    allow_hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="HOST",
            help="Fetch images from there: a host, host:port, *.domain, or * for all of the public internet. May be "
            "repeated.",
            show_default="none",
            rich_help_panel=WHO,
        ),
    ] = None,
    cors_origins: Annotated[
        list[str] | None,
        typer.Option(
            "--cors-origin",
            metavar="ORIGIN",
            help="Pages of this origin may ask. May be repeated.",
            show_default="none",
            rich_help_panel=WHO,
        ),
    ] = None,
    max_upload_mib: Annotated[
        float | None,
        typer.Option(
            metavar="MIB", help="The largest image.", show_default=_default("max_upload_mib"), rich_help_panel=WHO
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Answer at HTTP: a page, OpenAI's chat completions, and whole rows of the data set. Ctrl-C ends it.

    Keys are read from the environment: VIGC_API_KEYS=one,two. Without it whoever reaches the port may ask.
    """
    from vigc.jobs.serve.run import in_words, run_serve

    given = {name: context.params[name] for name in ServeSettings.model_fields if name in context.params}
    console = make_console(quiet=json_)
    try:
        run_serve(
            given,
            host=host,
            port=port,
            on_start=lambda hardware: console.print(f"{hardware}: starting Ray and loading the model …", style="dim"),
            on_ready=print_json if json_ else lambda ready: console.print(in_words(ready)),
        )
    except KeyboardInterrupt as stop:
        typer.echo("Stopped; what was under way is answered.", err=True)
        raise typer.Exit(INTERRUPTED) from stop
