"""Data sets in Python: made by `generate`, read and worked on as a `Dataset`."""

from __future__ import annotations

import hashlib
import html
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from vigc.platform.dataset.store import Store
from vigc.platform.records import ConfigError, InputError, RowStatus

if TYPE_CHECKING:
    import pandas
    import pyarrow as pa

    from vigc.platform.dataset.verify import Verification

Place = str | os.PathLike[str]

NUM_SHOWN = 5  # rows in a notebook
REPORT_PIXELS = 900  # the height of the report in a notebook


def generate(images: Place | Sequence[Place], *, out: Place, quiet: bool = False, **settings: Any) -> Dataset:
    """Makes a data set, or goes on with it: the same call again does what is left.

    Args:
        images: a folder, annotations, a manifest or any other place that `vigc generate` reads; or a list of image
            files and addresses.
        out: the folder of the data set; may be s3:// or gs://.
        quiet: print nothing; otherwise what is about to happen, and the progress.
        settings: the flags of `vigc generate` with underscores, such as `model="http://localhost:8000/v1"`,
            `kinds=["detail"]`, `limit=100`, `set={"max_steps": 6}`.
    Raises:
        VigcError: a setting, the images, the model or `out` cannot be used, or the run broke off.
        KeyboardInterrupt: after what was under way is committed.
    """
    from vigc.jobs.generate.config import GenerateConfig
    from vigc.jobs.generate.run import run_generate
    from vigc.jobs.generate.terminal import ProgressLine, say_plan
    from vigc.jobs.terminal import make_console

    place = os.fspath(images) if isinstance(images, str | os.PathLike) else _listed(images)
    config = GenerateConfig(images=place, out=os.fspath(out), **settings)
    console = make_console(quiet=quiet)
    line = ProgressLine(console)
    with line.shown():
        made = run_generate(
            config,
            on_plan=lambda plan, pass_: say_plan(console, plan, pass_),
            on_progress=line.report,
            on_note=line.note,
        )
    return Dataset(made.out)


def open_dataset(out: Place) -> Dataset:
    """A data set that is there.

    Raises:
        StoreError: there is none at `out`.
    """
    return Dataset(out)


class Dataset:
    """A data set that `generate` made. It holds nothing: each look at it reads what is there now."""

    def __init__(self, out: Place) -> None:
        """Raises StoreError where there is no data set."""
        self._store = Store(os.fspath(out))
        self._store.existing_passes()

    def __repr__(self) -> str:
        return f"Dataset({str(self._store)!r})"

    @property
    def place(self) -> str:
        """Its folder or address."""
        return str(self._store)

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """One dict for each image, streamed in no particular order.

        Args:
            columns: such as `image_id` and `conversations`; None gives all.
        """
        return self._store.rows(columns)

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows in memory, by image_id."""
        import pyarrow as pa

        from vigc.platform.schema import ROW

        wanted = list(columns or ROW.names)
        if unknown := [name for name in wanted if name not in ROW.names]:
            raise ConfigError(f"There is no column {unknown[0]!r}. The columns are {', '.join(ROW.names)}.")
        read = [*wanted] if "image_id" in wanted else [*wanted, "image_id"]
        schema = pa.schema([ROW.field(name) for name in read])
        return pa.Table.from_batches(self._store.batches(read), schema=schema).sort_by("image_id").select(wanted)

    def to_pandas(self) -> pandas.DataFrame:
        """All conversations in memory, one in each row, with `image_id` and `uri`, by image_id and kind."""
        import pandas as pd

        talks = [
            {"image_id": row["image_id"], "uri": row["uri"], **talk}
            for row in self.rows(["image_id", "uri", "conversations"])
            for talk in row["conversations"]
        ]
        frame = pd.DataFrame(talks)
        return frame.sort_values(["image_id", "kind"], ignore_index=True) if talks else frame

    @property
    def summary(self) -> dict[str, Any]:
        """The figures of summary.json, counted anew."""
        from vigc.platform.report.summary import summarise

        return summarise(self._store)

    def verify(self) -> Verification:
        """Whether every image has exactly one complete row; `.ok`, or `.problems` in words."""
        from vigc.platform.dataset.verify import verify

        return verify(self.place)

    def filter(self, *, exclude_like: Place | None = None, clear: bool = False, **settings: Any) -> Self:
        """Decides anew which conversations are kept; rows stay as they are.

        Args:
            exclude_like: evaluation images; nothing made of an image like them is kept.
            clear: keep all again.
            settings: the flags of `vigc filter` with underscores, such as `max_absent=0`.
        """
        from vigc.jobs.dataset.config import FilterConfig
        from vigc.jobs.dataset.filter import run_filter, with_words

        like = None if exclude_like is None else os.fspath(exclude_like)
        config = FilterConfig(data=self.place, **settings)
        run_filter(self.place, with_words(config), exclude_like=like, clear=clear)
        return self

    def export(self, format: str = "llava", *, out: Place | None = None, **settings: Any) -> str:
        """Writes what is kept in a trainer's format, and gives the place.

        Args:
            format: llava, sharegpt, openai, parquet, webdataset, huggingface or preference.
            out: the file or folder; None: exports/FORMAT in the data set.
            settings: the flags of `vigc export` with underscores, such as `multi_turn=True`.
        """
        from vigc.jobs.dataset.config import ExportConfig
        from vigc.jobs.dataset.export import run_export

        target = None if out is None else os.fspath(out)
        return run_export(ExportConfig(data=self.place, format=format, out=target, **settings)).place

    def report(self) -> ReportPage:
        """Writes report.html anew. A notebook shows the page."""
        from vigc.platform.report import write_report

        return ReportPage(write_report(self._store))

    def _repr_html_(self) -> str:
        """For notebooks: how much there is, and the first answers."""
        shown, lines, found = [], [], self.summary
        for row in self.rows(["image_id", "status", "conversations"]):
            if row["status"] == RowStatus.OK:
                shown += [(row["image_id"], talk) for talk in row["conversations"]]
            if len(shown) >= NUM_SHOWN:
                break
        for image_id, talk in shown[:NUM_SHOWN]:
            cells = (image_id, talk["kind"], talk["question"], talk["answer"])
            lines.append("".join(f"<td style='text-align:left'>{html.escape(str(cell))}</td>" for cell in cells))
        counts = f"{found['num_rows']} images, {found['num_kept']} conversations kept, {found['num_failed']} failed"
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in ("image", "kind", "question", "answer"))
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        return f"<p><b>{html.escape(self.place)}</b>: {counts}</p><table><tr>{head}</tr>{body}</table>"


@dataclass(frozen=True)
class ReportPage:
    """The page about a data set, at a place."""

    place: str

    def __str__(self) -> str:
        return self.place

    def _repr_html_(self) -> str:
        """For notebooks: the page in a frame, where it lies on this machine."""
        if not Path(self.place).is_file():
            return html.escape(self.place)
        page = html.escape(Path(self.place).read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" width="100%" height="{REPORT_PIXELS}" frameborder="0"></iframe>'


def _listed(images: Sequence[Place]) -> str:
    """A file that lists the images, the same for the same ones, so that a run finds its own again."""
    if not images:
        raise InputError("The list of images is empty.")
    places = [os.fspath(one) for one in images]
    if odd := [one for one in places if not one.strip() or "\n" in one or one.lstrip().startswith("#")]:
        raise InputError(f"{odd[0]!r} cannot stand in a list of images. Name its folder instead.")
    lines = [one if "://" in one else str(Path(one).absolute()) for one in places]
    text = "".join(f"{line}\n" for line in lines)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    file = cache / "vigc" / "lists" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return str(file)
