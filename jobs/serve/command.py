"""The verb `serve` at the terminal."""

from __future__ import annotations

import typer

from vigc.jobs.serve.config import ServeConfig
from vigc.jobs.settings.command import Verb
from vigc.jobs.terminal import INTERRUPTED, make_console, print_json


def serve(config: ServeConfig) -> None:
    """Answer at HTTP: a page, OpenAI's chat completions, and whole rows of the data set. Ctrl-C ends it.

    Keys are read from the environment: VIGC_API_KEYS=one,two. Without it whoever reaches the port may ask.
    """
    from vigc.jobs.serve.run import in_words, run_serve

    console = make_console(quiet=config.json_)
    try:
        run_serve(
            config,
            on_start=lambda what: console.print(f"{what}: starting Ray and the service …", style="dim"),
            on_ready=print_json if config.json_ else lambda ready: console.print(in_words(ready)),
        )
    except KeyboardInterrupt as stop:
        typer.echo("Stopped; all requests under way were answered.", err=True)
        raise typer.Exit(INTERRUPTED) from stop


SERVE = Verb(
    ServeConfig,
    serve,
    (
        "vigc serve",
        "vigc serve --model Salesforce/instructblip-vicuna-7b --replicas 1:8",
        "vigc serve --model http://localhost:8001/v1",
        "VIGC_API_KEYS=one,two vigc serve --host 0.0.0.0 --allow-hosts '*.wikimedia.org'",
    ),
)
