"""The house stands: imports go down the floors only, and what is packaged is what is there."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
FOLDERS = {"rcnas_edge": "rcnas_edge", "exporters": "rcnas_edge_exporters", "profiles": "rcnas_edge_profiles"}
"""Top-level folder -> import name."""


@dataclass(frozen=True)
class Room:
    """A module or sub-package: its floor, the modules it is made of beside its own name, and what it never imports."""

    floor: int
    also: tuple[str, ...] = ()
    never: tuple[str, ...] = ()


ROOMS = {
    # the ground: what everything stands on, standing on nothing of ours
    "errors": Room(0, also=("reading",), never=("torch", "numpy")),
    "space": Room(0, never=("torch",)),
    "quiet": Room(0, never=("torch", "numpy")),
    "process": Room(0),
    "board": Room(0, never=("torch", "onnx")),
    "attacks": Room(1, never=("nets", "data", "train")),
    "evaluate": Room(1, never=("torch",)),
    "data": Room(1),
    "plugins": Room(1, never=("torch",)),
    "modelfile": Room(2, never=("torch", "onnx", "numpy")),
    "nets": Room(2, never=("attacks", "train", "search")),
    "profile": Room(2, never=("torch",)),
    "cost": Room(3, never=("torch", "nets")),
    "checkpoint": Room(3),
    "quantise": Room(3, also=("precision",), never=("torch",)),
    "calibrating": Room(3, never=("nets", "train")),
    "testing": Room(3, never=("torch",)),
    "profiles": Room(3, never=("torch",)),
    "task": Room(4, also=("agent", "buffers", "embedding", "setting", "teacher"), never=("search", "train", "export")),
    "train": Room(4, never=("search", "export")),
    "export": Room(4, also=("reimport",), never=("search", "train", "exporters")),
    "search": Room(5, never=("export", "verify", "exporters")),
    "verify": Room(5, also=("verdict",), never=("exporters",)),
    "measure": Room(5, never=("search", "train", "torch")),
    "exporters": Room(5, never=("search", "train")),
    "deploy": Room(5, never=("torch", "torchvision", "onnx", "sklearn")),
    "report": Room(6, never=("torch", "numpy")),
    "pipeline": Room(7, also=("bundle", "kit")),
    "compare": Room(7, also=("compare_html",), never=("torch",)),
    "cli": Room(8, also=("__main__", "api", "tensorboard", "terminal")),
}
ROOM_OF = {module: name for name, room in ROOMS.items() for module in (name, *room.also)}
PLUGIN_ROOMS = ("exporters", "profiles")
CLI_ONLY = ("click", "rich", "tqdm")


@dataclass(frozen=True)
class Import:
    """One import: the file and line, what it names, and where it stands."""

    file: Path
    line: int
    name: str
    typing_only: bool
    inside: bool  # of a function

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.name}"


def modules() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def room_of_file(file: Path) -> str | None:
    """The room a file belongs to; None for the package's own __init__."""
    folder, *rest = file.relative_to(ROOT).with_suffix("").parts
    if folder in PLUGIN_ROOMS:
        return folder
    return None if rest == ["__init__"] else ROOM_OF.get(rest[0], rest[0])


def room_of_name(name: str) -> str | None:
    """The room an imported name belongs to; None for what is not ours or is the bare package."""
    top, *rest = name.split(".")
    for folder, package in FOLDERS.items():
        if top == package and folder in PLUGIN_ROOMS:
            return folder
    if top != "rcnas_edge" or not rest or rest[0].startswith("__"):
        return None
    return ROOM_OF.get(rest[0], rest[0])


def dotted(file: Path) -> str:
    folder, *rest = file.relative_to(ROOT).with_suffix("").parts
    return ".".join([FOLDERS[folder], *(part for part in rest if part != "__init__")])


def imports(file: Path) -> Iterator[Import]:
    """Every import of a file, in functions and under TYPE_CHECKING too."""
    package = dotted(file) if file.stem == "__init__" else dotted(file).rpartition(".")[0]

    def visit(node: ast.AST, typing_only: bool, inside: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, typing_only, inside)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(file, node.lineno, f"{base}.{alias.name}", typing_only, inside)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, True, inside)
            for child in node.orelse:
                yield from visit(child, typing_only, inside)
        else:
            function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            for child in ast.iter_child_nodes(node):
                yield from visit(child, typing_only, inside or function)

    yield from visit(ast.parse(file.read_text(encoding="utf-8")), False, False)


@cache
def all_imports() -> tuple[Import, ...]:
    return tuple(found for file in modules() for found in imports(file))


# floors


def test_every_module_has_a_floor() -> None:
    homeless = sorted({room for file in modules() if (room := room_of_file(file)) and room not in ROOMS})
    assert not homeless, f"give {', '.join(homeless)} a room and a floor in the table of this test"


def test_imports_go_down_the_floors_only() -> None:
    wrong = []
    for found in all_imports():
        here, there = room_of_file(found.file), room_of_name(found.name)
        if here is None and there is not None and not found.typing_only:
            wrong.append(f"{found}: the package's __init__ imports nothing of ours")
        elif here in ROOMS and there in ROOMS and here != there and ROOMS[there].floor >= ROOMS[here].floor:
            wrong.append(f"{found}: from floor {ROOMS[here].floor} to floor {ROOMS[there].floor}")
    assert not wrong, "\n".join(wrong)


def test_nobody_imports_what_it_must_never_import() -> None:
    wrong = []
    for found in all_imports():
        here = room_of_file(found.file)
        banned = ROOMS[here].never if here in ROOMS else ()
        # a type for a reader is no dependence on a heavy package; on a room of ours it is one
        if room_of_name(found.name) in banned or (found.name.split(".")[0] in banned and not found.typing_only):
            wrong.append(str(found))
    assert not wrong, "\n".join(wrong)


def test_the_core_reaches_plugins_by_entry_point_only() -> None:
    wrong = [
        str(found)
        for found in all_imports()
        if room_of_name(found.name) in PLUGIN_ROOMS and room_of_file(found.file) not in PLUGIN_ROOMS
    ]
    assert not wrong, "\n".join(wrong)


def test_words_on_the_terminal_belong_to_the_command_line() -> None:
    wrong = [
        str(found)
        for found in all_imports()
        if found.name.split(".")[0] in CLI_ONLY and room_of_file(found.file) != "cli"
    ]
    for file in modules():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                wrong.append(f"{file.relative_to(ROOT)}:{node.lineno} calls print")
    assert not wrong, "\n".join(wrong)


def test_no_two_modules_import_each_other_when_they_are_loaded() -> None:
    names = {dotted(file): file for file in modules()}
    edges: dict[str, set[str]] = {name: set() for name in names}
    for found in all_imports():
        if found.typing_only or found.inside:
            continue
        here = dotted(found.file)
        there = found.name if found.name in names else found.name.rpartition(".")[0]
        # a package that gathers its own modules is their front, not their user
        if there in names and there != here:
            edges[here].add(there)
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for there in sorted(edges[name]):
                walk(there, (*way, name))
            done.add(name)

    for name in edges:
        walk(name, ())


def test_the_test_itself_sees_every_kind_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    file = tmp_path / "rcnas_edge" / "search" / "policy.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import torch.nn as nn\nfrom ..export import Artefact\nfrom . import protocol\nfrom rcnas_edge import verify\n"
        "if TYPE_CHECKING:\n    import onnx\nelse:\n    import click\n"
        "def f():\n    try:\n        import rcnas_edge_exporters.onnx\n    except ImportError:\n        pass\n"
    )
    found = {entry.name: (entry.typing_only, entry.inside) for entry in imports(file)}
    assert found == {
        "torch.nn": (False, False),
        "rcnas_edge.export.Artefact": (False, False),
        "rcnas_edge.search.protocol": (False, False),
        "rcnas_edge.verify": (False, False),
        "onnx": (True, False),
        "click": (False, False),
        "rcnas_edge_exporters.onnx": (False, True),
    }
    rooms = [room_of_name(name) for name in found]
    assert rooms == [None, "export", "search", "verify", None, None, "exporters"]
    assert room_of_file(file) == "search"


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_opens_with_a_sentence(file: Path) -> None:
    opening = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    assert opening, "a module says what it is for in its first line"
    assert re.search(r"[.:]", opening.split("\n\n")[0]), opening


LIGHT = {
    "space": ("torch", "numpy"),
    "profile": ("torch", "onnx", "onnxruntime"),
    "cost": ("torch", "onnx", "onnxruntime"),
    "report": ("torch", "numpy"),
    "deploy": ("torch", "torchvision", "onnx", "sklearn"),
    "cli": ("torch", "torchvision", "torchattacks", "onnx", "onnxruntime", "sklearn", "scipy"),
}
"""Module -> what is not loaded by importing it, not even through another module."""


def loaded(module: str, of: tuple[str, ...], then: str = "") -> list[str]:
    """Which packages a fresh interpreter has loaded after importing a module."""
    code = f"import sys\nimport rcnas_edge.{module}\n{then}\nprint([name for name in {of} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return ast.literal_eval(result.stdout.splitlines()[-1])


def skip_without(module: str) -> None:
    if not any((ROOT / "rcnas_edge" / name).exists() for name in (f"{module}.py", f"{module}/__init__.py")):
        pytest.skip(f"rcnas_edge/{module}.py is not there yet")


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    skip_without(module)
    assert loaded(module, LIGHT[module]) == []


HELP = """
try:
    rcnas_edge.cli.main(["--help"])
except SystemExit as end:
    assert not end.code, end.code
"""


def test_help_loads_nothing_heavy_and_takes_less_than_half_a_second() -> None:
    skip_without("cli")
    assert loaded("cli", LIGHT["cli"], HELP) == []
    # its own processor time, the best of three: the machine may have other things to do
    taken = min(_processor_seconds(["-c", f"import rcnas_edge.cli\n{HELP}"]) for _ in range(3))
    assert taken < 0.5, f"--help took {taken:.2f} s"


def _processor_seconds(arguments: list[str]) -> float:
    before = os.times()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=True)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


# packaging


def test_packages_are_the_folders_that_hold_code() -> None:
    there = {
        dotted(file)
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("__init__.py")
        if "assets" not in file.parts
    }
    assert sorted(SETUPTOOLS["packages"]) == sorted(there)
    mapped = {name: folder for folder, name in FOLDERS.items() if folder != name}
    assert SETUPTOOLS["package-dir"] == mapped
    strays = sorted(
        {file.parent for file in modules() if not (file.parent / "__init__.py").exists() and "assets" not in file.parts}
    )
    assert not strays, f"a folder with modules has an __init__.py, these have none: {strays}"


def source_files() -> set[str]:
    """What belongs into the wheel, by its name there: every file of the packages that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z", *FOLDERS],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode == 0 and listed.stdout:
        names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]
    else:  # an unpacked source archive
        names = [
            path.relative_to(ROOT).as_posix()
            for folder in FOLDERS
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        ]
    return {"/".join([FOLDERS[name.split("/")[0]], *name.split("/")[1:]]) for name in names}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from a copy, because a build leaves its folders in the source."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder), str(copy)]
    # with the build requirement at hand, no network is needed
    if _setuptools() >= 77:
        command.insert(4, "--no-build-isolation")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = folder.glob("*.whl")
    return built


def _setuptools() -> int:
    try:
        return int(version("setuptools").split(".")[0])
    except ModuleNotFoundError:
        return 0


def test_the_wheel_holds_every_module_and_asset_and_nothing_else(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert sorted(source_files() - held) == [], "missing from the wheel: see package-data in pyproject.toml"
    assert sorted(held - source_files()) == [], "in the wheel though not in the source"


def test_the_wheel_says_who_it_is(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    text = archive.read(metadata).decode("utf-8")
    assert "License-Expression: Apache-2.0" in text
    assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    import rcnas_edge

    assert f"Version: {rcnas_edge.__version__}\n" in text


OUTSIDE = """
import importlib.resources, json, sys
from importlib.metadata import distribution

from rcnas_edge import plugins

installed = sys.argv[1]
found = {}
for entry in distribution("rcnas-edge").entry_points:
    loaded = entry.load()
    module = sys.modules[entry.module]
    assert module.__file__.startswith(installed), (entry, module.__file__)
    found.setdefault(entry.group, []).append(entry.name)
for group in (plugins.EXPORTERS, plugins.FAMILIES, plugins.PROFILES):
    assert found[group] and set(found[group]) <= set(dict(plugins.load_all(group))), group
files = []
for package in ("rcnas_edge", "rcnas_edge_exporters", "rcnas_edge_profiles"):
    waiting = [(package, importlib.resources.files(package))]
    while waiting:
        name, place = waiting.pop()
        if place.is_dir():
            waiting += [(f"{name}/{child.name}", child) for child in place.iterdir() if child.name != "__pycache__"]
        else:
            place.read_bytes()
            files.append(name)
print(json.dumps(sorted(files)))
"""


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    skip_without("cli")
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--target",
        str(installed),
        str(wheel),
    ]
    result = subprocess.run(install, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    # what the interpreter has installed stays in reach, but the copy comes first
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert ast.literal_eval(run("-c", OUTSIDE, str(installed))) == sorted(source_files())
    where = (
        "import rcnas_edge.cli, sys; print(rcnas_edge.cli.__file__, file=sys.stderr); rcnas_edge.cli.main(['--help'])"
    )
    assert "compress" in run("-c", where)
    (script,) = (installed / "bin").glob("rcnas-edge*")
    assert "compress" in run(str(script), "--help")
