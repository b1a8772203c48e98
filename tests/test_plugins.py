"""Plugins as other packages bring them: one that is good is found by its name, one that is not is one sentence."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from rcnas_edge import nets, plugins
from rcnas_edge.cli import cli
from rcnas_edge.errors import InputError
from rcnas_edge.export import exporter
from rcnas_edge.profile import list_profiles, load_profile

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


def test_a_family_has_all_that_it_owes_and_its_own_name(register: Any) -> None:
    register(plugins.FAMILIES, "half", SimpleNamespace(name="half", networks="none"), "half")
    with pytest.raises(
        InputError, match=r"the family 'half' has name, .*, this SimpleNamespace has no default_network"
    ):
        nets.family("half")
    register(plugins.FAMILIES, "wider", nets.family("wrn"), "wider")
    with pytest.raises(InputError, match="registered under its own name, 'wrn' is registered as 'wider'"):
        nets.family("wider")


def test_profiles_come_from_a_package_of_files(register: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boards = tmp_path / "made_up_boards"
    boards.mkdir()
    (boards / "__init__.py").touch()
    (boards / "pi.toml").write_text(PROFILE.format(name="pi"))
    monkeypatch.syspath_prepend(tmp_path)
    register(plugins.PROFILES, "boards", importlib.import_module("made_up_boards"))
    assert load_profile("pi").name == "pi"
    assert {"host", "pi"} <= {profile.name for profile in list_profiles()}
    listed = CliRunner().invoke(cli, ["profile", "list"]).output.splitlines()
    said = {line.split()[0]: "measured on first use" in line for line in listed}
    assert (said["host"], said["pi"]) == (True, False)
    shown = CliRunner().invoke(cli, ["profile", "show", "pi"]).output
    assert "rows         0\n" in shown
    (boards / "pi5.toml").write_text(PROFILE.format(name="pi"))
    for ask in (lambda: load_profile("pi5"), list_profiles):
        with pytest.raises(InputError, match=r"is the stem of its file, .*pi5\.toml has the name 'pi'"):
            ask()


def test_a_plugin_of_profiles_that_is_no_package_is_refused(register: Any) -> None:
    register(plugins.PROFILES, "boards", object())
    with pytest.raises(InputError, match="names a package of TOML files, 'boards' names"):
        list_profiles()
