"""A verb's flags as Typer shows them, made of the fields of its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, Generic

import typer
from pydantic.fields import FieldInfo

from vigc.jobs.settings.config import (
    C,
    Flags,
    bare,
    extra,
    is_list,
    is_mapping,
    metavar,
    read_config,
    unsaid,
)
from vigc.jobs.settings.options import split
from vigc.jobs.terminal import help_end

FILE_HELP = "A YAML file whose keys are these flags. A flag on the command line wins."


@dataclass(frozen=True)
class Verb(Generic[C]):
    """A command: its settings, what it does with them, and examples for the end of its help.

    `run`'s docstring is the help, and its name the verb's, where no other is given.
    """

    config: type[C]
    run: Callable[[C], None]
    examples: tuple[str, ...]
    name: str = ""
    read: Callable[[type[C], Flags, Path | None], C] = read_config  # makes the settings of flags and file
    interspersed: bool = True  # False: flags after the first argument belong to that

    def __str__(self) -> str:
        return self.name or self.run.__name__.strip("_")

    def config_of(self, context: typer.Context) -> C:
        """The settings that a command line gives."""
        flags = {}
        for name, field in self.config.flags().items():
            source = context.get_parameter_source(_key(name))
            if source is None or source.name.startswith("DEFAULT"):
                continue
            value = context.params[_key(name)]
            if is_list(field) and extra(field, "split", True):
                value = [part for text in value for part in split(text)]
            flags[name] = value
        return self.read(self.config, flags, context.params["config_file"])


def add_verb(app: typer.Typer, verb: Verb[Any], panel: str | None = None) -> None:
    """Adds it to the program, under a heading of the help, with a flag for each of its settings and --config."""

    def command(context: typer.Context, **_: Any) -> None:
        verb.run(verb.config_of(context))

    command.__doc__ = verb.run.__doc__
    flags = [_parameter(name, field) for name, field in verb.config.flags().items()]
    file = Annotated[Path | None, typer.Option("--config", metavar="FILE", help=FILE_HELP)]
    command.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter("context", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
            *flags,
            Parameter("config_file", Parameter.KEYWORD_ONLY, default=None, annotation=file),
        ]
    )
    app.command(
        str(verb),
        epilog=help_end(*verb.examples),
        rich_help_panel=panel,
        context_settings={"allow_interspersed_args": verb.interspersed},
    )(command)


def _parameter(name: str, field: FieldInfo) -> Parameter:
    """The field as Typer reads it; values are left to pydantic, so that all faults are said alike."""
    default = None if field.is_required() else field.get_default(call_default_factory=False)
    kind: Any = list[str] if is_list(field) or is_mapping(field) else bool if bare(field.annotation) is bool else str
    if kind is not bool:
        default = _as_text(field, default)
    help_ = str(field.description)
    if choices := unsaid(field):
        help_ += f" One of {', '.join(choices)}."
    if field.is_required():
        help_ += " [dim red]\\[required][/]"
    about: dict[str, Any] = {
        "help": help_,
        "show_default": extra(field, "shown") or default not in (None, False, [], ""),
        "rich_help_panel": extra(field, "panel"),
    }
    if kind is not bool:
        about["metavar"] = metavar(field)
    if extra(field, "positional"):
        option = typer.Argument(**about)
    else:
        option = typer.Option(
            f"--{name}/--no-{name}" if kind is bool and default is not False else f"--{name}", **about
        )
    kind = kind if default is not None else kind | None
    return Parameter(_key(name), Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _key(name: str) -> str:
    """The flag's name as Typer's parameter."""
    return f"{name.replace('-', '_')}_"


def _as_text(field: FieldInfo, default: Any) -> Any:
    """A default as it would be given."""
    if is_mapping(field):
        return [f"{name}={value}" for name, value in (default or {}).items()]
    if isinstance(default, tuple) and not is_list(field):
        return ":".join(map(str, dict.fromkeys(default)))
    if isinstance(default, tuple | list):
        return [str(one) for one in default]
    return default if default is None else str(default)
