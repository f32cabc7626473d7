"""The verb `filter` at the terminal: its flags, which are the fields of FilterSettings, and what it prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vigc.jobs.terminal import Json, help_end, make_console, print_json
from vigc.platform.quality.settings import FilterSettings
from vigc.platform.records import ConfigError

FILTER_EXAMPLES = help_end(
    "vigc filter data",
    "vigc filter data --max-absent 0 --min-grounding 0.1",
    "vigc filter data --max-opening 0.1 --max-yes-no 0.5",
    "vigc filter data --exclude-like coco/val2014        # no image of a benchmark",
    "vigc filter data --words banned.txt --language en --off similar_image",
    "vigc filter data --clear                            # keep all again",
)
DEFAULTS = FilterSettings()
CONVERSATION, TOGETHER = "Each conversation by itself", "All of them together"
NEVER = "not looked at"

Share = float | None


def filter_(
    out: Annotated[str, typer.Argument(metavar="OUT", help="The dataset directory that `vigc generate` wrote.")],
    min_words: Annotated[
        int, typer.Option(help="Words of an answer, at least.", rich_help_panel=CONVERSATION)
    ] = DEFAULTS.min_words,
    max_words: Annotated[
        int, typer.Option(help="Words of an answer, at most.", rich_help_panel=CONVERSATION)
    ] = DEFAULTS.max_words,
    max_repetition: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="Of an answer's runs of six words, were there before.", rich_help_panel=CONVERSATION
        ),
    ] = DEFAULTS.max_repetition,
    max_absent: Annotated[
        int,
        typer.Option(
            help="Different objects that an answer names and that are not there.", rich_help_panel=CONVERSATION
        ),
    ] = DEFAULTS.max_absent,
    min_grounding: Annotated[
        Share,
        typer.Option(help="Of each sentence, where it was measured.", show_default=NEVER, rich_help_panel=CONVERSATION),
    ] = None,
    words: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Words and phrases, one a line, that may not occur.", rich_help_panel=CONVERSATION
        ),
    ] = None,
    language: Annotated[
        str | None, typer.Option(metavar="CODE", help="Such as en.", show_default=NEVER, rich_help_panel=CONVERSATION)
    ] = None,
    exclude_like: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES",
            help="Evaluation images, any source: nothing that was made of an image like them is kept.",
            rich_help_panel=CONVERSATION,
        ),
    ] = None,
    max_distance: Annotated[
        int,
        typer.Option(
            metavar="BITS", help="Of 64, by which hashes of near-duplicate images differ.", rich_help_panel=TOGETHER
        ),
    ] = DEFAULTS.max_distance,
    similar_question: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="Of their words, from which two questions are the same.", rich_help_panel=TOGETHER
        ),
    ] = DEFAULTS.similar_question,
    similar_meaning: Annotated[
        Share,
        typer.Option(
            metavar="COSINE",
            help="Of their meanings, from which they are, too; slower. Such as 0.9.",
            show_default=NEVER,
            rich_help_panel=TOGETHER,
        ),
    ] = None,
    max_same_question: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="Of a kind, may ask the same; a hundred always may.", rich_help_panel=TOGETHER
        ),
    ] = DEFAULTS.max_same_question,
    max_opening: Annotated[
        Share,
        typer.Option(metavar="SHARE", help="Of a kind, may begin alike.", show_default=NEVER, rich_help_panel=TOGETHER),
    ] = None,
    max_yes_no: Annotated[
        Share,
        typer.Option(
            metavar="SHARE",
            help="Of the answers that begin with yes or no, may say the same.",
            show_default=NEVER,
            rich_help_panel=TOGETHER,
        ),
    ] = None,
    off: Annotated[str, typer.Option(metavar="NAMES", help="Filters that are left out, with commas.")] = "",
    seed: Annotated[int, typer.Option(help="Of the choice among too many.")] = 0,
    clear: Annotated[bool, typer.Option("--clear", help="Keep all again.")] = False,
    json_: Json = False,
) -> None:
    """Decide which conversations are kept. Rows stay as they are, so decide again as often as you like.

    Each time all is decided anew, by these flags alone; `show`, `export` and `summary` follow the newest decision.
    """
    from vigc.jobs.dataset.filter import as_json, run_filter
    from vigc.jobs.dataset.tables import evaluation_lines, filter_table, hallucination_tables
    from vigc.jobs.dataset.verify import Meter

    settings = FilterSettings(
        min_words=min_words,
        max_words=max_words,
        max_repetition=max_repetition,
        max_absent=max_absent,
        min_grounding=min_grounding,
        words=_words(words),
        language=language,
        similar_question=similar_question,
        similar_meaning=similar_meaning,
        max_distance=max_distance,
        max_same_question=max_same_question,
        max_opening=max_opening,
        max_yes_no=max_yes_no,
        off=tuple(name.strip() for name in off.split(",") if name.strip()),
        seed=seed,
    )
    console = make_console(quiet=json_)
    meter = Meter(console)
    with meter.shown("images and rows"):
        found = run_filter(
            out, settings, exclude_like=exclude_like, clear=clear, on_images=meter.report, on_rows=meter.report
        )
    if json_:
        print_json(as_json(found))
        return
    if clear:
        typer.echo(f"All conversations are kept again{'' if found.changed else ', as they were'}.")
        return
    console.print(filter_table(found.about))
    for line in evaluation_lines(found.about):
        typer.echo(line)
    for part in hallucination_tables(found.summary["hallucination"]):
        console.print()
        console.print(part)
    console.print()
    typer.echo(
        f"verdicts  {out}/verdicts/{found.number}.parquet"
        f"{'' if found.changed else ' (nothing has changed)'}; exports leave out what they reject"
    )


def _words(file: Path | None) -> tuple[str, ...]:
    if file is None:
        return ()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{file}: the words cannot be read ({error}). One word or phrase a line, in UTF-8."
        ) from error
    if not (found := tuple(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip()))):
        raise ConfigError(f"{file}: no word in it. One word or phrase a line.")
    return found
