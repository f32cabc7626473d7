"""Flags, the YAML file, and what becomes of them."""

from __future__ import annotations

import pytest
from datasets import REQUEST, finished, source

from vigc.jobs.generate.config import GenerateConfig
from vigc.jobs.generate.plan import make_plan, policy_of, settings_again
from vigc.jobs.settings.config import read_config
from vigc.model.embedded import PATH as EMBEDDED
from vigc.model.sentences import Unit
from vigc.platform.dataset.store import Store
from vigc.platform.records import ConfigError, ModelError, StoreError


@pytest.fixture
def yaml_file(tmp_path):
    def write(text):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return path

    return write


def config_with(**changed):
    return GenerateConfig(**({"images": "photos", "out": "data"} | changed))


def config_from(flags, file=None):
    return read_config(GenerateConfig, flags, file)


def test_flags_win_over_the_file_and_the_file_over_the_defaults(yaml_file):
    file = yaml_file(
        "images: photos\nout: data\nkinds: [detail, conversation]\nseed: 3\ntop-p: 0.5\nset:\n  max_steps: 2\n"
    )

    config = config_from({"seed": 4}, file)

    assert (config.images, config.seed, config.slots, config.top_p) == ("photos", 4, None, 0.5)
    assert config.kinds == ("conversation", "detail")
    assert policy_of(config).max_steps == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("images: a\nslot: 2\n", "2: unknown key 'slot'; the nearest is 'slots'."),
        ("images: a\n\nslots: many\n", "3: slots: must be a whole number, not 'many'"),
        ("images: a\nslots: 0\n", "2: slots: should be greater than or equal to 1, not 0"),
        ("images: a\nkinds: [detail, story]\n", "2: kinds: there is no 'story'; use conversation, detail"),
        ("images: a\nkinds: []\n", "2: kinds: needs at least one of"),
        ("images: a\nimages: b\n", "2: 'images' stands twice, first in line 1"),
        ("images: [a\n", "not valid YAML"),
        ("images: !!python/name:os.system\n", "1: not valid YAML"),
        ("- images\n", "1: the file must hold lines"),
        ("overwrite: true\n", "1: unknown key 'overwrite'"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line(yaml_file, text, complaint):
    file = yaml_file(text)

    with pytest.raises(ConfigError) as caught:
        config_from({"out": "data"}, file)

    assert str(caught.value).startswith(f"{file}:")
    assert complaint in str(caught.value)


def test_a_flag_that_is_wrong_is_blamed_and_not_the_file(yaml_file):
    with pytest.raises(ConfigError, match=r"^--engine: "):
        config_from({"engine": "steam"}, yaml_file("images: a\nout: b\nengine: reference\n"))


@pytest.mark.parametrize(
    ("option", "name", "value"),
    [
        ("max_steps=3", "max_steps", 3),
        ("stop_when_done=no", "stop_when_done", False),
        ("one_shot=true", "one_shot", True),
        ("repetition_penalty=1.25", "repetition_penalty", 1.25),
        ("unit=paragraph", "unit", Unit.PARAGRAPH),
    ],
)
def test_an_option_of_the_policy_is_read_as_the_type_of_its_field(option, name, value):
    changed = getattr(policy_of(config_with(policy_options=[option])), name)

    assert changed == value
    assert type(changed) is type(value)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"policy_options": ["max_steps=many"]}, "--set max_steps: must be a whole number, not 'many'"),
        ({"policy_options": ["stop_when_done=perhaps"]}, "--set stop_when_done: must be true or false"),
        (
            {"policy_options": ["unit=verse"]},
            "there is no 'verse'; use sentence, reference_sentence",
        ),
        ({"policy_options": ["steps=2"]}, "there is no option 'steps'; known are unit, max_steps"),
        ({"policy_options": ["name=mine"]}, "there is no option 'name'"),
        ({"policy_options": ["temperature=1"], "temperature": 0.5}, "given twice"),
        ({"policy": "wishful"}, "there are paper, lean, verified, shipped"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(flags, complaint):
    with pytest.raises(ConfigError, match=complaint):
        policy_of(config_with(**flags))


@pytest.mark.parametrize(("actors", "between"), [("3", (3, 3)), ("2:5", (2, 5)), ("4:4", (4, 4)), (2, (2, 2))])
def test_actors_are_a_number_or_a_range(actors, between, yaml_file):
    assert config_with(actors=actors).actors == between
    in_file = config_from({}, yaml_file(f"images: photos\nout: data\nactors: {actors}\n"))
    assert in_file.actors == between


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"actors": "5:2"}, "--actors: '5:2' is no range; give one number, or the least and the most as in 1:8"),
        ({"actors": "0:2"}, "--actors: '0:2' is no range"),
        ({"actors": ":2"}, "--actors: ':2' is no range"),
        ({"actors": "2:"}, "--actors: '2:' is no range"),
        ({"actors": "many"}, "--actors: 'many' is no range"),
        ({"shard": "0/4"}, "--shard: '0/4' is no shard; use i/n with 1 <= i <= n, like 2/8"),
        ({"shard": "5/4"}, "--shard: '5/4' is no shard"),
        ({"shard": "2"}, "--shard: '2' is no shard"),
        ({"sample": 0}, "--sample: should be greater than or equal to 1, not 0"),
        ({"limit": -1}, "--limit: should be greater than or equal to 1, not -1"),
        ({"max-pixels": 0}, "--max-pixels: should be greater than or equal to 1, not 0"),
    ],
)
def test_a_selection_or_a_number_of_actors_that_cannot_be_is_refused(flags, complaint):
    with pytest.raises(ConfigError) as caught:
        config_from({"images": "photos", "out": "data"} | flags)

    assert complaint in str(caught.value)


def test_what_is_selected_is_part_of_the_request_and_in_its_words(scenes_dir, tmp_path):
    (tmp_path / "used.txt").write_text("000001.jpg\n")

    def request(**flags):
        return make_plan(config_with(images=str(scenes_dir), out=str(tmp_path / "data"), **flags)).request

    plain = request()
    for flags, words in (
        ({"limit": 4}, "; the first 4"),
        ({"sample": 3}, "; a sample of 3 (seed 0)"),
        ({"sample": 3, "seed": 5}, "; a sample of 3 (seed 5)"),
        ({"shard": "2/3"}, "; shard 2/3"),
        ({"exclude": str(tmp_path / "used.txt"), "shard": "1/2"}, f"; without those of {tmp_path}/used.txt; shard 1/2"),
    ):
        assert request(**flags)["source"] == plain["source"] + words
    assert request(max_pixels=5000) == plain | {"max_pixels": 5000}
    assert request(actors="1:4") == plain


def test_the_request_holds_what_decides_the_rows_and_nothing_about_the_machine(scenes_dir, tmp_path):
    def request(**flags):
        return make_plan(config_with(images=str(scenes_dir), out=str(tmp_path / "data"), **flags)).request

    assert request() == request(engine="reference", slots=2, actors=3)
    for flags in (
        {"seed": 1},
        {"kinds": "detail"},
        {"limit": 3},
        {"policy_options": ["max_steps=2"]},
        {"dtype": "bfloat16"},
    ):
        assert request() != request(**flags)
    assert request(kinds="detail,reasoning") == request(kinds="reasoning,detail")


def test_actors_share_the_cores(scenes_dir, tmp_path):
    from vigc.model.cores import num_cores

    def threads(actors):
        return make_plan(
            config_with(images=str(scenes_dir), out=str(tmp_path / "data"), actors=actors)
        ).engine.num_threads

    assert threads(1) == num_cores()
    assert threads(num_cores()) == 1
    assert threads(10 * num_cores()) == 1


def test_a_model_folder_is_told_apart_by_its_weights_not_by_its_place(scenes_dir, tmp_path):
    import shutil

    from vigc.model.embedded import PATH

    def weights(folder):
        config = config_with(images=str(scenes_dir), out=str(tmp_path / "data"), model=str(folder))
        return make_plan(config).request["model"]["weights"]

    copy = shutil.copytree(PATH, tmp_path / "copy")
    assert weights(copy) == weights(PATH)
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    assert weights(copy) != weights(PATH)


def test_a_folder_that_is_no_model_is_refused(scenes_dir, tmp_path):
    (tmp_path / "model").mkdir()
    for content, complaint in ((None, "no config.json there"), ("{", "cannot be read"), ("{}", "no weights there")):
        if content:
            (tmp_path / "model" / "config.json").write_text(content)
        with pytest.raises(ModelError, match=complaint):
            make_plan(config_with(images=str(scenes_dir), out=str(tmp_path / "d"), model=str(tmp_path / "model")))


def test_resume_insists_on_a_data_set(scenes_dir, tmp_path):
    config = config_with(images=str(scenes_dir), out=str(tmp_path / "data"), resume=True)

    with pytest.raises(StoreError, match="could be resumed"):
        make_plan(config)


@pytest.fixture
def made(tmp_path):
    """A data set of two runs, the newer of which is not the last in the order of passes."""
    first = finished(tmp_path / "data").passes()[0]
    second = Store(tmp_path / "data").create_pass(REQUEST | {"kinds": ["knowledge"]}, source(2))
    for pass_, day, seed in ((first, 3, 7), (second, 2, 8)):
        config = config_with(
            seed=seed, slots=5, limit=4, model="folder", policy_options=["max_steps=2", "one_shot=true"]
        ).as_file()
        started = f"2026-01-0{day}T00:00:00+00:00"
        pass_.add_run({"started": started, "config": config, "model": {"location": "/abs/folder"}})
    return str(tmp_path / "data")


def again(made, file=None, **flags):
    images = {} if made is None else {"images": made}
    how = {} if "add-kind" in flags else {"retry-failed": True}
    return settings_again(images | how | flags, file)


def test_a_further_pass_has_the_settings_of_the_newest_run(made, yaml_file):
    found = again(made)

    assert (found.images, found.out, found.seed, found.slots, found.limit) == ("photos", made, 7, 5, None)
    assert found.model == "/abs/folder"
    assert again(made, **{"add-kind": ["detail", "knowledge"]}).kinds == ("detail", "knowledge")
    assert again(made, file=yaml_file("seed: 9\n")).seed == 9
    assert again(made, file=yaml_file("seed: 9\n"), seed=10, slots=6).seed == 10
    assert again(None, out=made) == found
    assert again(made, out=made) == found


def test_options_of_the_policy_are_changed_one_by_one_unless_the_policy_is_another(made):
    changed = policy_of(again(made, set=["max_steps=3"]))
    assert (changed.max_steps, changed.one_shot) == (3, True)

    assert policy_of(again(made, policy="shipped")) == policy_of(config_with(policy="shipped"))


def test_a_retry_asks_for_the_kinds_that_failed_whatever_the_newest_run_made(made):
    plan = make_plan(again(made, model=str(EMBEDDED)))

    assert list(plan.config.kinds) == plan.request["kinds"] == ["conversation", "detail"]
    assert (plan.source.num_images(), plan.is_idle, plan.note) == (1, False, None)


def test_a_kind_that_is_named_twice_is_refused():
    with pytest.raises(ConfigError, match="detail is named twice"):
        config_from({"images": "photos", "out": "data", "kinds": ["detail", "detail"]})


def test_another_seed_without_sampling_is_no_new_pass(scenes_dir, tmp_path):
    config = config_with(images=str(scenes_dir), out=str(tmp_path / "data"), objects="none", tracking="none")
    plan = make_plan(config)
    plan.store.create_pass(plan.request, plan.source)
    again = config.model_copy(update={"new": True, "seed": 1})
    with pytest.raises(ConfigError, match="another seed changes no word, so this pass would repeat pass 001"):
        make_plan(again)
    assert make_plan(again.model_copy(update={"temperature": 0.7})).existing is None
