"""A verb's flags as Typer shows them, made of the fields of its settings."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from vigc.jobs.settings.config import C, Flags, bare, extra, is_list, is_mapping, metavar, read_config, unsaid
from vigc.jobs.settings.options import split
from vigc.jobs.terminal import help_end

Read = Callable[[type[C], Flags, Path | None], C]
FILE_HELP = "A YAML file whose keys are these flags. A flag on the command line wins."


def add_command(
    app: typer.Typer,
    config: type[C],
    run: Callable[[C], None],
    *examples: str,
    name: str | None = None,
    panel: str | None = None,
    read: Read[C] = read_config,
    interspersed: bool = True,
) -> None:
    """Adds a verb whose flags are the fields of a model.

    Args:
        run: is called with the settings; its docstring is the help.
        examples: command lines for the end of the help.
        panel: the heading that the verb is under.
        read: makes the settings of flags and file.
        interspersed: False where flags after the first argument belong to that.
    """

    def command(context: typer.Context, **_: Any) -> None:
        run(config_of(context, config, read))

    command.__doc__ = run.__doc__
    shown = [_parameter(name, field) for name, field in config.flags().items()]
    shown.sort(key=lambda one: one.name == "json_")  # which mixins would have first
    file = Parameter(
        "config_file",
        Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Path | None, typer.Option("--config", metavar="FILE", help=FILE_HELP)],
    )
    context = Parameter("context", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    command.__signature__ = Signature([context, *shown, file])  # type: ignore[attr-defined]
    app.command(
        name or run.__name__.strip("_"),
        epilog=help_end(*examples),
        rich_help_panel=panel,
        context_settings={"allow_interspersed_args": interspersed},
    )(command)


def config_of(context: typer.Context, config: type[C], read: Read[C] = read_config) -> C:
    """The settings that a command line gives."""
    flags = {}
    for name, field in config.flags().items():
        key = _key(name)
        source = context.get_parameter_source(key)
        if source is None or source.name.startswith("DEFAULT"):
            continue
        value = context.params[key]
        if is_list(field) and extra(field, "split", True):
            value = [part for text in value for part in split(text)]
        flags[name] = value
    return read(config, flags, context.params["config_file"])


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
