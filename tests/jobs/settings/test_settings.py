"""Every verb's settings: the flags, the keys of its file and its keywords are one model's fields."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from vigc.jobs.cli import ALL_VERBS
from vigc.jobs.generate.config import GenerateConfig
from vigc.jobs.settings.command import Verb, add_verb
from vigc.jobs.settings.config import bare, extra, is_list, read_config
from vigc.platform.records import ConfigError
from vigc.platform.settings import Counts

# What a verb cannot do without, unless a flag such as --print stands for it.
NEEDED = {"train": ("out",), "evaluate": ("model", "benchmark", "questions", "out")}
BY_NAME = pytest.mark.parametrize("verb", ALL_VERBS.values(), ids=list(ALL_VERBS))
# What continues the flag's name instead of being a phrase of its own.
FRAGMENT = re.compile("(Of|As|As of|Such as|That|Which|Whose|In one|May) ")


def read(verb: Verb[Any], *words: object) -> Any:
    """The settings that a command line gives."""
    app = typer.Typer(add_completion=False)
    add_verb(app, verb)
    command: Any = typer.main.get_command(app)
    return verb.config_of(command.make_context("vigc", list(map(str, words))))


def filled(verb: Verb[Any], tmp_path: Path, **values: object) -> Path:
    """A file with what the verb cannot do without, and with these values."""
    needed = {name: "some" for name, field in verb.config.flags().items() if field.is_required()}
    needed |= dict.fromkeys(NEEDED.get(str(verb), ()), "some")
    file = tmp_path / "settings.yaml"
    given = needed | {name.replace("_", "-"): value for name, value in values.items()}
    file.write_text(yaml.safe_dump(given) if given else "")
    return file


def fields_of(kind: Any) -> list[Any]:
    found = []
    for verb in ALL_VERBS.values():
        for name, field in verb.config.flags().items():
            if extra(field, "positional") or not extra(field, "split", True):
                continue
            if kind is list and is_list(field) and bare(field.annotation) in (tuple[str, ...], list[str]):
                found.append(pytest.param(verb, name, id=f"{verb} --{name}"))
            if kind is Counts and bare(field.annotation) == tuple[int, int]:
                found.append(pytest.param(verb, name, id=f"{verb} --{name}"))
    return found


def value_of(config: Any, name: str) -> Any:
    (key,) = [key for key, field in type(config).model_fields.items() if str(field.alias or key) == name]
    return getattr(config, key)


@BY_NAME
def test_a_file_s_value_arrives_a_flag_wins_over_it_and_an_unknown_key_names_the_nearest(verb, tmp_path):
    texts = [
        name
        for name, field in verb.config.flags().items()
        if bare(field.annotation) is str and extra(field, "in_file", True) and not extra(field, "positional")
    ]
    names = [name for name in texts if not verb.config.flags()[name].metadata] or [
        name for name in verb.config.file_keys() if bare(verb.config.flags()[name].annotation) in (str, int, bool)
    ]
    name, field = names[0], verb.config.flags()[names[0]]
    first, second = {str: ("first", "second"), int: (3, 4), bool: (True, True)}[bare(field.annotation)]
    file = filled(verb, tmp_path, **{name: first})

    assert value_of(read(verb, "--config", file), name) == first
    given = [second] if extra(field, "positional") else [f"--{name}"] + ([second] if second is not True else [])
    assert value_of(read(verb, "--config", file, *given), name) == second
    with pytest.raises(ConfigError, match=rf"settings\.yaml:\d+: unknown key '{name}x'; the nearest is '{name}'"):
        read(verb, "--config", filled(verb, tmp_path, **{f"{name}x": first}))


@BY_NAME
def test_every_flag_has_a_help_that_is_a_whole_phrase(verb):
    for name, field in verb.config.flags().items():
        text = str(field.description)
        assert re.match(r"[A-Z].*[.]$", text, re.DOTALL), f"--{name}: {text}"
        assert len(text.split()) >= 3, f"--{name}: {text}"
        assert not FRAGMENT.match(text), f"--{name}: {text}"


@pytest.mark.parametrize(("verb", "name"), fields_of(list))
def test_a_list_has_commas_or_is_repeated_or_is_a_list_in_the_file(verb, name, tmp_path):
    wanted = ["a", "b", "c"]

    here = read(verb, "--config", filled(verb, tmp_path), f"--{name}", "a,b", f"--{name}", "c")
    assert list(value_of(here, name)) == wanted
    for written in (wanted, "a, b,c"):
        assert list(value_of(read(verb, "--config", filled(verb, tmp_path, **{name: written})), name)) == wanted


@pytest.mark.parametrize(("verb", "name"), fields_of(Counts))
def test_a_range_is_a_number_or_the_least_and_the_most(verb, name, tmp_path):
    for written, wanted in (("3", (3, 3)), ("2:5", (2, 5))):
        assert value_of(read(verb, "--config", filled(verb, tmp_path), f"--{name}", written), name) == wanted
    file = filled(verb, tmp_path)
    file.write_text(file.read_text() + f"{name}: 2:5\n")  # which YAML takes for minutes
    assert value_of(read(verb, "--config", file), name) == (2, 5)
    for wrong in ("5:2", "0", "2-5", "many"):
        with pytest.raises(ConfigError, match=f"--{name}: '{wrong}' is no range"):
            read(verb, "--config", filled(verb, tmp_path), f"--{name}", wrong)


def test_in_python_a_setting_is_a_keyword_and_a_mistake_is_one_line():
    made = GenerateConfig(images="photos", out="data", kinds=["detail"], top_p=0.5, actors=(1, 8))

    assert (made.kinds, made.top_p, made.actors) == (("detail",), 0.5, (1, 8))
    for wrong, says in (
        ({"slot": 2}, "There is no setting 'slot'; the nearest is 'slots'."),
        ({"slots": "many"}, "slots: must be a whole number, not 'many'."),
        ({"top_p": "half"}, "top_p: must be a number, not 'half'."),
        ({"overwrite": True, "resume": True}, "--overwrite and --resume contradict each other. Give one of them."),
    ):
        with pytest.raises(ConfigError) as caught:
            GenerateConfig(images="photos", out="data", **wrong)
        assert str(caught.value) == says


def test_what_a_model_holds_can_be_written_as_a_file_and_read_again(tmp_path):
    made = GenerateConfig(images="photos", out="data", actors="1:8", policy_options={"max_steps": 3}, overwrite=True)
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump(made.as_file()))

    assert read_config(GenerateConfig, {}, file) == made.model_copy(update={"overwrite": False})
