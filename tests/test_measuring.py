"""`rcnas-edge profile measure`: a profile of this machine under a name of one's own, kept, checked, begun again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from rcnas_edge.cli import cli
from rcnas_edge.errors import InputError
from rcnas_edge.measure import Measurement, runtime_here
from rcnas_edge.pipeline import measuring
from rcnas_edge.pipeline.measuring import seconds_of
from rcnas_edge.profile import Profile, Row, Target, cache_path, load_profile
from rcnas_edge.profile.fusion import Key
from rcnas_edge.profile.words import measured_words

ASKED = ["profile", "measure", "--name", "my-desk", "--base", "wrn-10-1", "--image", "1x8x8", "--budget", "2s"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    from rcnas_edge.pipeline import prepare

    monkeypatch.setattr(prepare, "SAMPLED_NETWORKS", 12)
    monkeypatch.setattr(measuring, "CALIBRATION", 5)
    monkeypatch.setattr(measuring, "CHECK", 4)
    monkeypatch.setattr(measuring, "PASSES", 2)


def test_this_machine_is_measured_under_a_name_of_ones_own(quick: None) -> None:
    told = CliRunner().invoke(cli, ASKED, catch_exceptions=False)
    assert told.exit_code == 0, told.output
    profile = load_profile("my-desk")
    assert f"{len(profile.rows)} rows in {cache_path('my-desk')}" in told.output
    assert profile.on_first_use, "a task with other networks adds its rows"
    assert profile.validation["fp32/1/8x8"]["n"] >= 1
    assert "within 5 %" in told.output
    assert "steady" in told.output.lower()
    listed = CliRunner().invoke(cli, ["profile", "list"], catch_exceptions=False)
    assert "my-desk" in listed.output

    before = cache_path("my-desk").read_text()
    assert CliRunner().invoke(cli, ASKED, catch_exceptions=False).exit_code == 0
    kept = load_profile("my-desk")
    assert {row.kernel: row.ms for row in profile.rows}.items() <= {row.kernel: row.ms for row in kept.rows}.items()
    assert CliRunner().invoke(cli, [*ASKED, "--anew"], catch_exceptions=False).exit_code == 0
    assert cache_path("my-desk").read_text() != before


@pytest.mark.parametrize("name", ["raspberry-pi-5", "pixel-4-gpu"])
def test_another_device_is_not_measured_here(name: str) -> None:
    result = CliRunner().invoke(cli, ["profile", "measure", "--name", name, "--budget", "1s"])
    assert isinstance(result.exception, InputError)
    assert name in str(result.exception)
    assert "name of your own" in str(result.exception)
    assert not cache_path(name).exists()


def test_a_budget_is_a_time() -> None:
    assert [seconds_of(text) for text in ("90s", "10min", "1h", "1.5 min")] == [90, 600, 3600, 90]
    for text in ("10", "min", "-3s", "nans", "0s", "25h", "1e9s", "10 parsecs", ""):
        with pytest.raises(InputError, match="10min"):
            seconds_of(text)


@pytest.mark.parametrize(("name", "threads"), [("../victim", "1"), ("my-kept", "0")])
def test_nothing_is_forgotten_before_everything_is_checked(name: str, threads: str) -> None:
    path = cache_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("kept")
    try:
        asked = ["profile", "measure", "--name", name, "--threads", threads, "--anew", "--budget", "1s"]
        assert isinstance(CliRunner().invoke(cli, asked).exception, InputError)
        assert path.read_text() == "kept"
    finally:
        path.unlink()


def test_a_table_that_a_killed_call_began_on_an_unsteady_machine_stays_unsteady(tmp_path: Path) -> None:
    runtime = runtime_here()
    kernel = ("relu", "plain", 1, 1, 1, 8, 8, 8, 8)
    entry = {"covers": ["table"], "kind": "measured", "setting": "fp32/1", "complete": False, "rows": 7, "passes": 2}
    entry |= {"reference_spread": 0.5, "stable": False, "when": "2026-01-01", "source": "x", "runtime": "x"}
    entry |= {"threads": 1, "clocks": "unknown", "load": 0.0, "reference_ms": 1.0}
    row = Row("fp32", 1, Key(*kernel[:7]), 8, 8, 0.001)
    begun = Profile("host", "known", runtime, rows=(row,), provenance=(entry,))
    timer = SimpleNamespace(spread=0.01, pace=1.0, passes=1)
    resumed = Measurement(begun, tmp_path / "host.toml", Target("host"), timer, lambda label, share: None)
    resumed.save(complete=True, size="8x8")
    (told,) = resumed.profile.provenance
    assert (told["stable"], told["reference_spread"], told["rows"], told["passes"]) == (False, 0.5, 7, 2)
    assert "UNSTEADY" in " ".join(measured_words(resumed.profile, "fp32/1"))
    assert list(measured_words(resumed.profile, "fp32/2")) == []
