"""Plugins as other packages bring them: one that is good is found by its name, one that is not is one sentence."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from rcnas_edge import DeviceProfile, nets, plugins
from rcnas_edge.cli import cli
from rcnas_edge.errors import InputError
from rcnas_edge.export import exporter
from rcnas_edge.profile import Profile, Rate, Rates, list_profiles, load_profile
from rcnas_edge.testing import profile_conformance

PACKAGE = "made_up_plugins"
PROFILE = 'schema = 2\nname = "{name}"\nvendor = "v"\nruntime = "onnxruntime"\n'


class Good:
    """All that an exporter owes, doing nothing."""

    format, suffix = "good", ".good"

    def settings(self) -> dict[str, str]:
        return {}

    def export(self, *given: Any, **named: Any) -> None:
        raise NotImplementedError

    def predict(self, *given: Any, **named: Any) -> None:
        raise NotImplementedError


class Wanting:
    """An exporter whose maker wants an argument."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Registers an object under a name of a group, as if a package had been installed."""
    module = ModuleType(PACKAGE)
    monkeypatch.setitem(sys.modules, PACKAGE, module)
    monkeypatch.setenv("RCNAS_CACHE", str(tmp_path / "no-profiles"))
    there = {group: list(plugins.registered(group).values()) for group in (plugins.EXPORTERS, plugins.FAMILIES, plugins.PROFILES)}  # noqa: E501  # fmt: skip
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: there[group])

    def add(group: str, name: str, made: Any, attribute: str = "made") -> None:
        setattr(module, attribute, made)
        there[group].append(EntryPoint(name, f"{PACKAGE}:{attribute}", group))

    return add


def test_the_same_name_of_two_packages_is_refused(register: Any) -> None:
    register(plugins.EXPORTERS, "onnx", Good)
    with pytest.raises(InputError, match=r"registered once, 'onnx' is both .*OnnxExporter' and 'made_up_plugins:made'"):
        exporter("onnx")


def test_a_name_that_nobody_registered_says_what_there_is(register: Any) -> None:
    register(plugins.EXPORTERS, "good", Good)
    with pytest.raises(InputError, match="no plugin of exporters is called 'goood'; there are: good, onnx, tensorrt"):
        exporter("goood")


def test_a_plugin_that_does_not_load_is_named(register: Any) -> None:
    register(plugins.FAMILIES, "vit", object(), "there")
    delattr(sys.modules[PACKAGE], "there")
    with pytest.raises(InputError, match=r"the plugin 'vit' \(made_up_plugins:there\) does not load: AttributeError"):
        nets.family("vit")


@pytest.mark.parametrize("made", [Good, Good(), lambda: Good()], ids=["class", "object", "function"])
def test_an_exporter_is_a_class_a_function_or_an_object(register: Any, made: Any) -> None:
    register(plugins.EXPORTERS, "good", made)
    assert isinstance(exporter("good"), Good)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (Wanting, "the exporter 'bad' is made without arguments, it is not: TypeError"),
        (object, "this object has no format, suffix, settings, export, predict: the plugin is not made for this"),
        (SimpleNamespace(format="x", export=None), "has no suffix, settings, predict"),
    ],
    ids=["wants an argument", "nothing", "a part"],
)
def test_an_exporter_that_lacks_something_is_one_sentence(register: Any, made: Any, words: str) -> None:
    register(plugins.EXPORTERS, "bad", made)
    with pytest.raises(InputError, match=words):
        exporter("bad")


class Raises:
    """Raises where it is made, or where it is asked for what it owes."""

    def __init__(self, error: BaseException, when: str) -> None:
        self.error, self.when = error, when

    def __call__(self) -> Any:
        if self.when == "made":
            raise self.error
        return self

    def __getattr__(self, name: str) -> Any:
        if name == "export" and self.when == "asked":
            raise self.error
        raise AttributeError(name)


@pytest.mark.parametrize("when", ["made", "asked"])
@pytest.mark.parametrize(
    "error",
    [RuntimeError("no\nboard \x1b[31m" * 999), SystemExit(3), KeyError(), RecursionError(), MemoryError("\u2028")],
    ids=["words", "exit", "key", "recursion", "memory"],
)
def test_whatever_a_plugin_raises_is_one_short_sentence(register: Any, error: BaseException, when: str) -> None:
    made: Any = Raises(error, when)
    register(plugins.EXPORTERS, "bad", made if when == "asked" else made.__call__)
    with pytest.raises(InputError, match="the exporter 'bad'") as told:
        exporter("bad")
    assert str(told.value).isprintable()
    assert len(str(told.value)) < 600
    assert type(error).__name__ in str(told.value)


def test_a_family_has_all_that_it_owes_and_its_own_name(register: Any) -> None:
    register(plugins.FAMILIES, "half", SimpleNamespace(name="half", networks="none"), "half")
    with pytest.raises(
        InputError, match=r"the family 'half' has name, .*, this SimpleNamespace has no default_network"
    ):
        nets.family("half")
    register(plugins.FAMILIES, "wider", nets.family("wrn"), "wider")
    with pytest.raises(InputError, match="registered under its own name, 'wrn' is registered as 'wider'"):
        nets.family("wider")


# profiles


def listed(*options: str) -> tuple[list[str], list[str]]:
    """Names of profiles, and warnings, as `rcnas-edge profile list` prints them; it is never an error."""
    result = CliRunner().invoke(cli, ["profile", "list", *options])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    warnings = [line for line in lines if line.startswith("warning: ")]
    return [line.split()[0] for line in lines if line not in warnings], warnings


def boards(folder: Path, monkeypatch: pytest.MonkeyPatch, package: str = "made_up_boards") -> Path:
    """An empty package of files, without any Python."""
    made = folder / package
    made.mkdir()
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    return made


def test_profiles_come_from_a_package_of_files(register: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = boards(tmp_path, monkeypatch)
    (package / "pi.toml").write_text(PROFILE.format(name="pi"))
    register(plugins.PROFILES, "boards", importlib.import_module("made_up_boards"))
    assert load_profile("pi").name == "pi"
    assert {"host", "pi"} <= {profile.name for profile in list_profiles()}
    names, warnings = listed()
    assert {"host", "pi"} <= set(names)
    assert not warnings
    shown = CliRunner().invoke(cli, ["profile", "show", "pi"]).output
    assert "rows         0\n" in shown
    assert "origin       not measured, no latencies\n" in shown


def test_a_bad_file_is_a_warning_and_hides_no_other(
    register: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = boards(tmp_path, monkeypatch)
    (package / "pi.toml").write_text(PROFILE.format(name="pi"))
    (package / "pi5.toml").write_text(PROFILE.format(name="pi"))
    (package / "Pi 6.toml").write_text(PROFILE.format(name="pi"))
    (package / "pi7.toml").write_text("schema = ")
    register(plugins.PROFILES, "boards", importlib.import_module("made_up_boards"))
    names, warnings = listed()
    assert {"host", "pi"} <= set(names)
    words = {
        "pi5": r"pi5\.toml: the name of a profile is the stem of its file, got 'pi': rename it",
        "Pi 6": "name of a profile is made of a to z, .*, got 'Pi 6': rename it",
        "pi7": r"pi7\.toml: a profile is a TOML file, this is not: Invalid value",
    }
    assert len(warnings) == len(words)
    for name, message in words.items():
        assert any(re.search(rf"warning: {name} \(.*\) cannot be used: .*{message}", line) for line in warnings), name
    with pytest.raises(InputError, match=words["pi5"]):
        load_profile("pi5")
    assert load_profile("pi").name == "pi"


LAMP = Profile(
    "lamp",
    "v",
    "tflite",
    rates={"fp32/1": Rates({"other": Rate(ms=0.1)})},
    provenance=({"covers": ["rates"], "kind": "estimate", "when": "2026", "source": "a data sheet"},),
)


def both() -> Iterator[DeviceProfile]:
    yield LAMP
    yield replace(LAMP, name="torch")


@pytest.mark.parametrize(
    ("made", "names"),
    [(LAMP, ["lamp"]), (lambda: LAMP, ["lamp"]), (lambda: [LAMP], ["lamp"]), (both, ["lamp", "torch"])],
    ids=["object", "function", "list", "generator"],
)
def test_profiles_come_from_objects_and_functions(register: Any, made: Any, names: list[str]) -> None:
    register(plugins.PROFILES, "lamps", made)
    for name in names:
        assert load_profile(name) == replace(LAMP, name=name)
    assert set(names) <= set(listed()[0])


def broken() -> DeviceProfile:
    raise RuntimeError("no\nboard")


def stops() -> DeviceProfile:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (object(), "is a package of TOML files, a DeviceProfile or a function .*, it gives <object"),
        (lambda: [LAMP, "lamp"], "or a function that gives one or several, it gives 'lamp'"),
        (lambda: None, "it gives None"),
        (lambda name: LAMP, r"the plugin 'boards' \(made_up_plugins:made\) does not run: TypeError"),
        (broken, "does not run: RuntimeError: no board"),
        (stops, "does not run: SystemExit: 3"),
        (replace(LAMP, provenance=()), "the profile 'lamp': every number has its provenance, no entry covers 'rates'"),
        (sys, "names a package of TOML files, this is a module"),
    ],
    ids=["object", "half", "nothing", "argument", "raises", "exits", "no provenance", "module"],
)
def test_a_broken_plugin_is_one_warning(register: Any, made: Any, words: str) -> None:
    register(plugins.PROFILES, "boards", made)
    register(plugins.PROFILES, "good", replace(LAMP, name="good-lamp"), "good")
    names, warnings = listed()
    assert {"host", "good-lamp"} <= set(names)
    (warning,) = warnings
    assert re.search(words, warning), warning
    assert load_profile("good-lamp").name == "good-lamp"
    assert load_profile("host").on_first_use


def test_a_package_without_files_and_one_that_does_not_load(
    register: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boards(tmp_path, monkeypatch, "made_up_nothing")
    register(plugins.PROFILES, "empty", importlib.import_module("made_up_nothing"), "empty")
    register(plugins.PROFILES, "gone", LAMP, "gone")
    delattr(sys.modules[PACKAGE], "gone")
    warnings = listed()[1]
    assert len(warnings) == 2
    assert "names a package of TOML files, there is none in it: is its package data installed?" in warnings[0]
    assert "the plugin 'gone' (made_up_plugins:gone) does not load: AttributeError" in warnings[1]
    with pytest.raises(InputError, match=r"no profile is called 'pi9': .*; 2 plugin\(s\) cannot be read"):
        load_profile("pi9")


def test_a_name_that_two_packages_take_is_opened_by_neither_and_ours_by_no_other(register: Any) -> None:
    register(plugins.PROFILES, "one", LAMP, "one")
    register(plugins.PROFILES, "two", LAMP, "two")
    register(plugins.PROFILES, "three", replace(LAMP, name="host"), "three")
    names, warnings = listed()
    assert "lamp" not in names
    assert load_profile("host").on_first_use
    (warning,) = warnings
    assert "the name of a profile is used once, 'lamp' is in" in warning
    with pytest.raises(InputError, match="uninstall one of the two"):
        load_profile("lamp")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a program that has the example package installed, from a copy: a build leaves its folders."""
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(Path(__file__).parent / "example_profiles", folder / "source")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--target", str(folder / "installed"), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list((folder / "installed").rglob("*.py"))
    return {**os.environ, "PYTHONPATH": str(folder / "installed"), "RCNAS_CACHE": str(folder / "cache")}


def command(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rcnas_edge", *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_an_installed_package_without_python_adds_devices(installed: dict[str, str]) -> None:
    listing = command(installed, "profile", "list")
    assert (listing.returncode, listing.stderr) == (0, "")
    (camera,) = [line for line in listing.stdout.splitlines() if line.startswith("example-camera ")]
    assert "measured on example-camera, revision 2, 2026-01-31; the rest ESTIMATE, not measured: roofline" in camera
    assert camera.endswith("[example-boards 1.2.3]")
    shown = command(installed, "profile", "show", "example-camera").stdout
    assert "limits       memory 16 MB, disk 4 MB\n" in shown
    assert "fp32/1       validation: 30 networks, 60 % within 5 %, 90 % within 10 %, MAPE 4.7 %, worst 13 %\n" in shown
    missing = command(installed, "profile", "show", "example-camra")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == "error: no profile is called 'example-camra': did you mean 'example-camera'?\n"


def test_the_profiles_of_the_example_and_ours_conform() -> None:
    root = Path(__file__).parents[1]
    files = [*(root / "profiles").glob("*.toml"), *(root / "tests" / "example_profiles").rglob("*.toml")]
    found = [file for file in files if file.name != "pyproject.toml"]
    assert {"host", "example-camera", "example-lamp"} <= {file.stem for file in found}
    for file in found:
        profile_conformance(file)
