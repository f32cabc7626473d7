"""The shape of the repository: who may import whom, and what must never be there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("platform", "model", "jobs", "serve", "cluster")
HEAVY = {"torch", "transformers", "peft", "deepspeed"}
# folder -> what its modules must not import (design: platform and model meet in jobs only)
FORBIDDEN = {
    "platform": {"vigc.model", "vigc.jobs", "vigc.serve", *HEAVY},
    "model": {"vigc.jobs", "vigc.serve", "ray", "pyarrow"},
    "jobs": {"vigc.serve"},
    "serve": {"vigc.jobs"},
}
PACKAGES = {
    "torch",
    "transformers",
    "huggingface_hub",
    "safetensors",
    "numpy",
    "PIL",
    "yaml",
    "tokenizers",
    "peft",
    "deepspeed",
    "sentencepiece",
}
SHARED = ("records", "plugins")  # of the platform, that the model may import
ELSEWHERE = {  # files that run where other packages are
    "model/engines/endpoint/client.py": {"aiohttp", "vigc"},
    "model/engines/continuous/kernels.py": {"torch", "vigc", "triton"},  # Triton comes with a torch for GPUs
    "model/engines/vllm/process.py": {"torch", "vllm"},  # in an environment of vLLM's own
}


@cache
def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


# The rooms of each folder, the lowest first: a room imports itself and those before it, never back.
ROOMS = {
    "platform": (
        "records plugins text_lines settings schema vocabulary storage sources images dataset pipeline quality exports "
        "report instructions evaluation tracking planning"
    ),
    "model": (
        "cores sentences prompts files completion network scenes embedded llava weights engines conversation training "
        "answering benchmarks"
    ),
    "model/engines": (
        "settings interface metrics scoring base detokenizer tokenized reference continuous vllm endpoint choose start"
    ),
    "jobs": (
        "machine terminal settings scenes ingest doctor dataset weights submit row_worker generate plan preview train "
        "evaluate serve experiment bench api cli examples"
    ),
    "serve": (
        "errors metrics settings messages validation middleware jsonl web replica_client images replica samples schema "
        "conversations chat prompted gateway app"
    ),
}


def module_of(file: Path) -> str:
    return ".".join(["vigc", *file.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


def arrows() -> dict[Path, set[Path]]:
    """For each file of the product, the files of the product that it imports."""
    files = {module_of(file): file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))}
    found = {}
    for file in files.values():
        names = {name for name in imports(file) if name in files}
        doors = {name.rpartition(".")[0] for name in names}  # `from package import module` needs the module alone
        found[file] = {files[name] for name in names - doors} - {file}
    return found


def starts_with(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_a_folder_imports_only_what_it_may(folder: str) -> None:
    for file in sorted((ROOT / folder).rglob("*.py")):
        if file.is_relative_to(ROOT / "jobs" / "serve"):
            continue  # the one room of jobs that starts the service
        for name in imports(file):
            broken = [f for f in FORBIDDEN[folder] if starts_with(name, f)]
            assert not broken, f"{file.relative_to(ROOT)} imports {name}"
            if folder == "model" and starts_with(name, "vigc.platform"):
                assert name == "vigc.platform" or any(starts_with(name, f"vigc.platform.{one}") for one in SHARED), (
                    f"{file.relative_to(ROOT)} imports {name}"
                )


@pytest.mark.parametrize("folder", ROOMS)
def test_a_room_imports_itself_and_lower_rooms_only(folder: str) -> None:
    here, order = ROOT / folder, ROOMS[folder].split()
    there = {path.stem for path in here.iterdir() if path.suffix == ".py" or list(path.rglob("*.py"))}
    assert there - {"__init__", "__main__"} == set(order)

    def room(file: Path) -> int:
        name = file.relative_to(here).parts[0].removesuffix(".py")
        return order.index(name) if name in order else -1  # the folder's own __init__ is its door

    for file, others in arrows().items():
        if not file.is_relative_to(here) or room(file) < 0:
            continue
        back = [other for other in others if other.is_relative_to(here) and room(other) > room(file)]
        assert not back, f"{file.relative_to(ROOT)} imports {[str(other.relative_to(ROOT)) for other in back]}"


def test_no_files_import_each_other_in_a_circle() -> None:
    left = arrows()
    while ends := [file for file, others in left.items() if not others & left.keys()]:
        for file in ends:
            del left[file]
    assert not left, sorted(str(file.relative_to(ROOT)) for file in left)


@pytest.mark.parametrize("shared", ["records", "plugins"])
def test_what_the_model_has_from_the_platform_needs_the_standard_library_only(shared: str) -> None:
    for name in imports(ROOT / "platform" / f"{shared}.py"):
        assert name.split(".")[0] in sys.stdlib_module_names or starts_with(name, "vigc.platform.records"), name


def test_the_model_needs_few_packages_only() -> None:
    for file in sorted((ROOT / "model").rglob("*.py")):
        for name in imports(file):
            top = name.split(".")[0]
            allowed = ELSEWHERE.get(file.relative_to(ROOT).as_posix(), PACKAGES | {"vigc"})
            assert top in allowed or top in sys.stdlib_module_names, f"{file}: {name}"


@pytest.mark.parametrize(
    ("module", "blocked"),
    [
        ("vigc.model.conversation.vigc", ("ray", "pyarrow", "torch", "transformers")),
        ("vigc.jobs.generate.run", ("ray", "torch", "transformers")),  # what a finished run is found finished with
    ],
)
def test_what_only_hands_on_imports_without_the_heavy_packages(module: str, blocked: tuple[str, ...]) -> None:
    code = f"import sys\nfor name in {blocked}: sys.modules[name] = None\nimport {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_only_scenes_and_training_read_the_scenes_word_lists() -> None:
    allowed = {"model/scenes", "model/embedded", "model/training/scene_", "model/benchmarks"}
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            place = file.relative_to(ROOT).as_posix()
            words = [
                n
                for n in imports(file)
                if starts_with(n, "vigc.model.scenes.world") or starts_with(n, "vigc.model.scenes.wording")
            ]
            assert not words or any(place.startswith(a) for a in allowed), f"{place} imports {words}"


def test_platform_is_no_package_and_the_five_folders_are_links() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    listed = subprocess.run(
        ["git", "ls-files", "-s", "vigc"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout
    modes = {line.split("\t")[1]: line.split()[0] for line in listed.splitlines()}
    for folder in FOLDERS:
        assert modes.get(f"vigc/{folder}") == "120000", f"vigc/{folder} is not a symbolic link in git"


def test_no_test_folder_is_a_package() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_every_test_that_the_data_plane_s_readme_names_is_there() -> None:
    text = (ROOT / "platform" / "README.md").read_text(encoding="utf-8")
    there = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", text)
    assert len(named) > 15
    assert [name for name in named if f"def {name}(" not in there] == []
    assert all((ROOT / path).exists() for path in re.findall(r"`(tests/\S+\.py)`", text))


def test_a_class_s_name_means_one_thing() -> None:
    """Two classes of one name would have to be told apart by where they are imported from."""
    found: dict[str, list[str]] = {}
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found.setdefault(node.name, []).append(file.relative_to(ROOT).as_posix())
    assert {name: files for name, files in found.items() if len(files) > 1} == {}
