"""Several devices: what fits all of them, what is measured and what is predicted, and one network for each of them."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import ATTACK
from report_doubles import TARGET, run_values
from search_doubles import ToySpace
from test_pipeline import Remembering

from rcnas_edge import cli
from rcnas_edge.cost import Budget, Cost, Limit, resolve_all
from rcnas_edge.cost.feasibility import feasibility
from rcnas_edge.embedding import ENTRIES
from rcnas_edge.errors import BudgetError, InputError
from rcnas_edge.measure.timing import Timing
from rcnas_edge.pipeline import here, prepare, searching
from rcnas_edge.pipeline.console import Console, Silent
from rcnas_edge.pipeline.job import stage, tell
from rcnas_edge.pipeline.outcome import advice, budgets_met, exit_code
from rcnas_edge.pipeline.per_device import compress_each, smallest
from rcnas_edge.pipeline.prepare import budget_table, check_profile
from rcnas_edge.pipeline.run import Run
from rcnas_edge.pipeline.stages import Pipeline
from rcnas_edge.profile import Profile, Target, load_profile, machine
from rcnas_edge.report import write_report
from rcnas_edge.search.judge import TrainedJudge
from rcnas_edge.setting import TaskSetting, read_task
from rcnas_edge.space import Architecture
from rcnas_edge.verify import LEVELS

pytestmark = pytest.mark.usefixtures("quick_runs")

PHONE = "pixel-4-cpu-1-large"
"""A profile that ships: TFLite, fitted to others' measurements of images of 224x224."""
A, B = Target("board-a"), Target("board-b")
RATES = """
schema = 2
name = "{name}"
vendor = "nobody"
runtime = "onnxruntime"
{limits}
[rates."fp32/1".conv]
ms_per_mmac = {macs}
[rates."fp32/1".other]
ms_per_mb = {bytes}
[[provenance]]
covers = ["rates"{covers}]
kind = "estimate"
when = "2025-01-01"
source = "a test"
"""


def board(name: str, *, macs: float, megabyte: float, limits: str = "") -> str:
    """A board whose convolutions take `macs` ms per 10^6 MACs, and the rest `megabyte` ms per 10^6 bytes."""
    covers = ', "limits"' if limits else ""
    return RATES.format(name=name, macs=macs, bytes=megabyte, limits=limits, covers=covers)


@pytest.fixture(scope="module")
def host(setting: TaskSetting, profile_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """This machine's table, measured once for all that copy the cache."""
    _ = Pipeline(replace(setting, profile="host"), Run(tmp_path_factory.mktemp("host") / "a"), Silent()).opened.bench


@pytest.fixture
def boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile_cache: Path) -> Path:
    """Two boards, one slow to compute and one slow to move data, in a cache of their own beside the host's profile."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for path in profile_cache.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "board-a.toml").write_text(board("board-a", macs=1.0, megabyte=0.1))
    (folder / "board-b.toml").write_text(board("board-b", macs=0.01, megabyte=50.0))
    monkeypatch.setenv("RCNAS_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def setting(small_teacher: Path) -> TaskSetting:
    return TaskSetting(
        subset=100, teacher=str(small_teacher), attack=ATTACK, profile="board-a, board-b", max_latency="80%",
        evaluations=2, judge_epochs=1, epochs=1, finalists=1, batch_size=16, level="smoke", also="none", device="cpu",
    )  # fmt: skip


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole runs attack only a few images: no rate is looked at here."""
    monkeypatch.setitem(LEVELS, "smoke", replace(LEVELS["smoke"], images=4, sweep_images=2))


def exported(setting: TaskSetting, folder: Path, console: Console) -> dict[str, Any]:
    """A run up to its file, and what its report says."""
    stage(setting, folder, console, lambda pipeline: (pipeline.export(), tell(pipeline)))
    return json.loads((folder / "report.json").read_text())


def nothing_is_timed(*arguments: Any, **settings: Any) -> Any:
    raise AssertionError("a device that is not this machine is never timed")


# what is asked


def test_devices_and_their_limits_come_back_from_a_task_file(tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_text(
        'profile = ["host", "board/fp32/3"]\nmax_latency = ["host=2ms", "board=60%"]\nmax_macs = "40%"\n'
    )
    asked = TaskSetting.from_dict(read_task(tmp_path / "task.toml"))
    assert asked.targets == (Target("host"), Target("board", threads=3))
    assert asked.limits_of("host") == {"latency": "2ms", "macs": "40%"}
    assert asked.limits_of("board") == {"latency": "60%", "macs": "40%"}
    (tmp_path / "again.toml").write_text(asked.to_toml())
    assert TaskSetting.from_dict(read_task(tmp_path / "again.toml")) == asked
    each = asked.for_each()
    assert [(name, one.targets, one.max_latency, one.max_macs) for name, one in each.items()] == [
        ("host", (Target("host"),), "2ms", "40%"),
        ("board", (Target("board", threads=3),), "60%", "40%"),
    ]
    assert all(one.limits_of("a") == {"macs": "40%", "latency": "60%"} for one in TaskSetting().for_each().values())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_latency": "phone=2ms"}, r"a limit is for a device of --profile \(host, board\).*got 'phone=2ms'"),
        ({"max_latency": ["host=2ms", "host=3ms"]}, "a device has one limit of a kind.*host=LIMIT"),
        ({"max_latency": ["2ms", "board=3ms"]}, "one without a name holds for every device"),
        ({"max_latency": ["2ms", "3ms"]}, "a device has one limit of a kind"),
        ({"profile": ["host", "host/fp32/2"]}, "names a device once, 'host' is there twice"),
        ({"profile": "host/int8/1"}, "of the precision fp32, got 'int8'"),
        ({"profile": ["host", 1]}, "--profile is of type str"),
        ({"profile": "host,"}, "name of a profile"),
        ({"max_latency": "host=fast"}, "number with a unit.*got 'fast'"),
    ],
)
def test_devices_that_cannot_be_are_one_sentence(values: dict[str, Any], words: str) -> None:
    values = {"profile": "host, board"} | values
    with pytest.raises(InputError, match=words):
        [Limit.parse(*limit) for limit in TaskSetting.from_dict(values).limits_of("host").items()]


def test_per_device_needs_a_budget_for_each() -> None:
    with pytest.raises(InputError, match="b has none: name one, as --max-latency b=60%"):
        TaskSetting(profile="a, b", max_latency="a=2ms").for_each()


def test_flags_are_repeated_on_the_command_line(boards: Path, small_teacher: Path, tmp_path: Path) -> None:
    flags = [
        "--profile",
        "board-a",
        "--profile",
        "board-b",
        "--max-latency",
        "board-a=90%",
        "--max-latency",
        "board-b=1us",
    ]
    common = ["--teacher", str(small_teacher), "--subset", "100", "--out", str(tmp_path / "a"), "--dry-run"]
    result = CliRunner().invoke(cli.cli, ["compress", *flags, *common])
    assert isinstance(result.exception, BudgetError)
    assert "latency on board-b/fp32/1" in str(result.exception)
    table = [line.split() for line in result.output.splitlines() if line.startswith("  latency on")]
    assert [(line[2], line[3], line[-1]) for line in table] == [
        ("board-a/fp32/1", "90%", "yes"), ("board-b/fp32/1", "1us", "NO"),
    ]  # fmt: skip
    assert "latencies on board-a/fp32/1 are predicted, by numbers that are ESTIMATE" in result.output
    assert not (tmp_path / "a").exists()


# budgets


def test_what_is_the_same_everywhere_has_one_budget_the_tightest() -> None:
    teacher = Cost(macs=1000, params=200, size=800, memory=4000, latency=2.0)
    references = {A: teacher, B: replace(teacher, latency=10.0)}
    limits = {
        A: (Limit.parse("macs", "50%"), Limit.parse("latency", "50%")),
        B: (Limit.parse("macs", "40%"), Limit.parse("latency", "4ms")),
    }
    macs, first, memory, second = resolve_all(limits, references, {A: {"memory": 9e6}, B: {"memory": 3e6}})
    assert (macs.target, macs.limit) == (B, 400.0)
    assert (first.target, first.limit, first.teacher) == (A, 1.0, 2.0)
    assert (second.target, second.limit, second.teacher) == (B, 4.0, 10.0)
    assert (memory.target, memory.limit, memory.imposed) == (B, 3e6, True)
    assert macs.called(several=True) == "macs"
    assert [one.called(several=True) for one in (second, memory)] == [
        "latency on board-b/fp32/1",
        "memory on board-b/fp32/1",
    ]
    assert second.called(several=False) == "latency"


def test_one_network_must_fit_both_devices_and_each_may_be_the_one_that_is_missed() -> None:
    """Feasibility of opposed devices against brute force."""
    space = ToySpace()

    def cost(architecture: Architecture, target: Target | None = None) -> Cost:
        _, depth1, width1, _, depth2, width2 = space.deployed(architecture)
        ms = depth1 + width1 + 2 - width2 if target == A else depth2 + width2 + 2 - width1
        return Cost(macs=1, params=1, size=1, memory=1, latency=ms)

    every = [Architecture(each) for each in itertools.product(*(range(len(gene.options)) for gene in space.genes))]
    teacher = {target: cost(every[0], target) for target in (A, B)}
    for limits in ((1.9, 2.4), (1.0, 2.4), (2.4, 1.0), (1.5, 1.5)):
        asked = {target: (Limit("latency", limit),) for target, limit in zip((A, B), limits, strict=True)}
        budgets = resolve_all(asked, teacher, {A: {}, B: {}})
        rows, _best = feasibility(space, budgets, cost)
        both = [[cost(one, target).latency for target in (A, B)] for one in every]
        possible = any(first <= limits[0] and second <= limits[1] for first, second in both)
        assert all(row.satisfiable for row in rows) == possible
        assert [row.cheapest for row in rows] == pytest.approx([min(column) for column in zip(*both, strict=True)])
        worst = min(max(first / limits[0], second / limits[1]) for first, second in both)
        assert max(row.closest / row.budget.limit for row in rows) == pytest.approx(worst)


def test_limits_of_a_device_become_budgets_and_the_advice_does_not_raise_them(
    boards: Path, setting: TaskSetting, tmp_path: Path
) -> None:
    (boards / "board-b.toml").write_text(board("board-b", macs=1.0, megabyte=1.0, limits="memory_mb = 0.001\n"))
    pipeline = Pipeline(setting, Run(tmp_path / "a"), Silent())
    memory = next(row for row in budget_table(pipeline.opened.bench) if row.budget.quantity == "memory")
    assert (memory.budget.limit, memory.budget.imposed, memory.satisfiable) == (1000.0, True, False)
    (sentence,) = (line for line in advice(pipeline, BudgetError("memory")) if "--max-memory" in line)
    assert sentence.startswith("Override the 1 kB of the device board-b with --max-memory")
    own = Pipeline(replace(setting, max_memory="90%"), Run(tmp_path / "b"), Silent())
    assert all(not budget.imposed for budget in own.opened.bench.budgets)


# what is measured, and what is predicted


def test_this_machine_is_where_a_profile_was_measured() -> None:
    entry = {"covers": ["table"], "kind": "measured", **machine()}
    measured = Profile("lab", "v", "onnxruntime", provenance=(entry,))
    assert here.is_here(measured)
    assert here.is_here(load_profile("host"))
    for other in ({"cpu": "another"}, {"runtime": "onnxruntime 0.1"}, {"kind": "estimate"}, {"covers": ["rates"]}):
        assert not here.is_here(replace(measured, provenance=(entry | other,))), other
    assert not here.is_here(replace(measured, runtime="onnxruntime-cuda"))
    assert not here.is_here(load_profile(PHONE))
    elsewhere = replace(measured, provenance=(entry | {"cpu": "another"},), on_first_use=True)
    assert not here.is_here(elsewhere), "a copy of the host's profile that another machine made"


def test_a_file_is_timed_at_the_best_pace_that_this_machine_is_known_to_have(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"covers": ["table"], "kind": "measured", **machine(), "threads": 1, "reference_ms": 0.5}
    more = [{"reference_ms": 0.6}, {"threads": 2, "reference_ms": 0.3}, {"threads": 4, "reference_ms": "unknown"}]
    elsewhere = {"cpu": "another", "reference_ms": 0.1}
    lab = Profile("lab", "v", "onnxruntime", provenance=(entry, *(entry | other for other in (*more, elsewhere))))
    other = replace(lab, provenance=(entry | elsewhere,), on_first_use=True)
    asked: dict[int, float | None] = {}

    def time_model(model: Path, *, threads: int, seconds: float, rest_ms: float | None) -> str:
        asked[threads] = rest_ms
        return f"{threads} threads"

    monkeypatch.setattr(here, "time_model", time_model)
    profiles = {Target("lab", "fp32", threads): lab for threads in (1, 2, 4)} | {Target("other", "int8", 1): other}
    found = here.time_on(Path("model.onnx"), profiles, seconds=1.0)
    assert asked == {1: 0.5, 2: 0.3, 4: None}
    assert found[Target("other", "int8", 1)] == found[Target("lab", "fp32", 1)] == "1 threads"


def test_a_run_that_was_timed_on_another_machine_is_read_there_and_not_timed_anew() -> None:
    entry = {"covers": ["table"], "kind": "measured", **machine(), "cpu": "another"}
    lab = Profile("lab", "v", "onnxruntime", provenance=(entry,), on_first_use=True)
    bench = SimpleNamespace(profiles={A: lab}, targets=(A, B), here=(A,))
    assert here.timed(bench) == (A,)
    assert here.predicted(bench) == (B,)
    with pytest.raises(InputError, match=r"board-a/fp32/1 was measured on another one.*another --out"):
        here.time_here(Path("model.onnx"), bench, seconds=1.0, teacher=Path("teacher.onnx"))


def test_a_limit_in_percent_is_held_against_the_teacher_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher took 2 ms at first; now all is twice as slow, so that 2.2 ms are 55 % of it, and count as 1.1 ms."""
    entry = {"covers": ["table"], "kind": "measured", **machine(), "threads": 1, "reference_ms": 0.5}
    lab = Profile("lab", "v", "onnxruntime", provenance=(entry,))
    share, plain = Target("lab", "fp32", 1), Target("lab", "int8", 1)
    budgets = [
        Budget(share, "latency", 1.2, "60%", 2.0, relative=True),
        Budget(plain, "latency", 1.2, "1.2ms", 2.0),
        Budget(plain, "macs", 9.0, "40%", 20.0, relative=True),
    ]
    bench = SimpleNamespace(
        profiles={share: lab, plain: lab}, targets=(share, plain), here=(share, plain), budgets=budgets
    )
    asked = []

    def time_beside(model: Path, other: Path, **settings: Any) -> Any:
        asked.append((model.name, other.name, settings))
        return SimpleNamespace(timing=SimpleNamespace(p50_ms=2.2), other=SimpleNamespace(p50_ms=4.0), share=0.55)

    monkeypatch.setattr(here, "time_beside", time_beside)
    monkeypatch.setattr(here, "time_model", lambda model, **settings: SimpleNamespace(p50_ms=2.2))
    both = {"seconds": 1.0, "teacher": lambda: Path("teacher.onnx")}
    found = here.time_here(Path("model.onnx"), bench, **both)
    settings = {"threads": 1, "seconds": 1.0, "rest_ms": 0.5, "rest_seconds": None}
    assert asked == [("model.onnx", "teacher.onnx", settings)]
    assert (found[share].share, found[share].beside_ms, found[plain].share) == (0.55, 4.0, None)
    assert here.counted(found, bench) == {share: pytest.approx(1.1), plain: 2.2}
    assert (found[share].words, found[plain].words) == ("2.2 ms (55.0 % of the teacher's beside it)", "2.2 ms")
    here.time_here(Path("model.onnx"), bench, **both, patient=False)
    assert asked[1:] == [("model.onnx", "teacher.onnx", {**settings, "rest_seconds": 0.0})]
    assert here.timed_how(bench, "digest") == {"timed": [str(share), str(plain)], "beside": ["digest", str(share)]}
    budgets[0] = replace(budgets[0], relative=False)
    assert here.timed_how(bench, "digest")["beside"] == [], "another kind of limit is another timing"


def test_only_the_devices_that_are_listed_share_what_lies_around(tmp_path: Path) -> None:
    (tmp_path / "devices.json").write_text('{"devices": ["board-a", "board-b"]}')
    assert Run(tmp_path / "board-b").shared == tmp_path
    assert Run(tmp_path / "another").shared == tmp_path / "another"
    assert Run(tmp_path).shared == tmp_path


@pytest.mark.parametrize("text", ["host=", "board=,host=2ms", "host= "])
def test_a_limit_without_a_value_is_one_sentence(text: str) -> None:
    with pytest.raises(InputError, match="latency"):
        [
            [Limit.parse(quantity, limit) for quantity, limit in asked.limits_of(device).items()]
            for asked in [TaskSetting(profile="host,board", max_latency=text)]
            for device in ("host", "board")
        ]


def test_a_run_on_two_boards_is_judged_by_prediction_and_says_so(
    boards: Path, setting: TaskSetting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(here, "time_model", nothing_is_timed)
    console = Remembering()
    folder = tmp_path / "a"
    report = exported(setting, folder, console)
    assert [entry["profile"] for entry in report["targets"]] == ["board-a", "board-b"]
    assert all(entry["here"] is False and entry["latency"] is None for entry in report["targets"])
    assert all(entry["origin"].startswith("ESTIMATE") for entry in report["targets"])
    assert list(report["cost"]) == list(report["teacher"]["cost"]) == ["board-a/fp32/1", "board-b/fp32/1"]
    pipeline = Pipeline(setting, Run(folder), Silent())
    layers = pipeline.opened.task.space.layers(pipeline.searching.architecture)
    rows = report["budgets"]
    assert [(row["target"], row["name"], row["asked"]) for row in rows] == [
        ("board-a/fp32/1", "latency", "80%"), ("board-b/fp32/1", "latency", "80%"),
    ]  # fmt: skip
    for row, target in zip(rows, (A, B), strict=True):
        profile = load_profile(target.profile)
        assert row["predicted"] == pytest.approx(profile.latency(layers, target)[0])
        assert row["teacher"] == pytest.approx(profile.latency(pipeline.opened.task.teacher.layers, target)[0])
        assert row["predicted"] <= row["limit"] == pytest.approx(0.8 * row["teacher"])
        assert (row["measured"], row["met"], row["basis"]) == (None, True, "predicted, not measured")
    assert report["artefacts"][0]["latency"] is None
    told = [line for line in report["not_checked"] if "was predicted, not measured" in line]
    assert [target in line for target, line in zip(("board-a", "board-b"), told, strict=True)] == [True, True]
    assert all("python3 run.py bench" in line and "ESTIMATE" in line for line in told)
    assert set(told) <= set(console.said)
    warnings = [entry["warning"] for entry in report["targets"]]
    assert [line[:34] for line in warnings] == ["0.0 % of the latency predicted on " for _ in warnings]
    assert set(warnings) <= set(console.said)
    for candidate in report["search"]["candidates"]:
        assert {"latency", "latency on board-b/fp32/1"} <= set(candidate["cost"])
        assert candidate["feasible"]
    html = (folder / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    for words in (
        "predicted, not measured",
        "Robust accuracy over latency on board-b",
        "latency, board-a",
        "Warning: ",
    ):
        assert words in html, words
    assert "Latency, measured" not in html
    with pytest.raises(InputError, match=r"search\.json was made for budgets"):
        Pipeline(replace(setting, max_latency="board-a=80%"), Run(folder), Silent()).searching.search()


def test_a_phone_that_ships_warns_of_images_outside_its_domain(
    setting: TaskSetting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(here, "time_model", nothing_is_timed)
    console = Remembering()
    stage(replace(setting, profile=PHONE), tmp_path / "a", console, lambda pipeline: pipeline.export())
    said = "\n".join(console.said)
    assert "third party measurements, fitted (MAPE" in said
    (warning,) = (line for line in console.said if line.startswith("0.0 % of the latency predicted"))
    assert "asked for images of 8x8, its numbers are for 224x224" in warning


def test_the_host_is_still_measured_beside_a_board_that_is_not(
    host: None, boards: Path, setting: TaskSetting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher, a finalist and the file are timed for the host; the file misses there, and that is exit code 3."""
    true, timed = here.time_model, []

    def slow_at_last(model: Path, **settings: Any) -> Timing:
        timed.append(Path(model).name)
        timing = true(model, **settings)
        return replace(timing, p50_ms=9.0) if Path(model).parent.name == "artefacts" else timing

    monkeypatch.setattr(here, "time_model", slow_at_last)
    asked = replace(setting, profile="board-a, host", max_latency="board-a=90%, host=5ms")
    report = exported(asked, tmp_path / "a", Silent())
    assert [timed[0], timed[-1], len(timed)] == ["teacher.onnx", "model.onnx", 3]
    board_row, host_row = report["budgets"]
    assert (board_row["basis"], board_row["measured"], board_row["met"]) == ("predicted, not measured", None, True)
    assert (host_row["basis"], host_row["measured"], host_row["met"]) == ("measured", 9.0, False)
    assert exit_code([], budgets_met(Pipeline(asked, Run(tmp_path / "a"), Silent()))) == 3
    assert [entry["here"] for entry in report["targets"]] == [False, True]
    assert report["targets"][1]["latency"] == report["artefacts"][0]["latency"]
    assert {"p50_ms", "p95_ms", "stable"} <= set(report["targets"][1]["latency"])
    assert len([line for line in report["not_checked"] if "was predicted" in line]) == 1


def test_a_finalist_that_misses_on_a_slow_machine_is_timed_anew(
    host: None, boards: Path, setting: TaskSetting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice in a row it is slow; after the second one the first is timed anew, and that is what is kept."""
    true, timed = here.time_model, []

    def slow_at_first(model: Path, **settings: Any) -> Timing:
        timing = replace(true(model, **settings), at_pace=1.0)
        if Path(model).parent.name == "measured":
            timed.append(timing.p50_ms)
            if len(timed) <= 2:
                return replace(timing, p50_ms=9.0, stable=False, at_pace=0.0)
        return timing

    monkeypatch.setattr(here, "time_model", slow_at_first)
    asked, console = replace(setting, profile="host", max_latency="5ms"), Remembering()
    picked = Pipeline(asked, Run(tmp_path / "a"), console).searching.pick()
    assert picked["finalists"][0]["costs"]["host/fp32/1"]["latency"] == timed[3]
    assert picked["picks"] == picked["finalists"][0]["picks"]
    said = [line for line in console.said if line.startswith("finalist 1")]
    assert [line.rsplit(", ", 1)[1] for line in said] == [
        "to be timed again: the machine was slow",
        "within the budgets",
    ]
    record = tmp_path / f"a/measured/{'-'.join(map(str, picked['picks']))}.json"
    assert json.loads(record.read_text())["timings"]["host/fp32/1"]["timing"]["p50_ms"] == timed[3]
    assert Pipeline(asked, Run(tmp_path / "a"), Silent()).searching.pick() == picked
    assert len(timed) == 4


def test_a_machine_that_is_slow_moves_no_budget_in_percent(
    host: None, boards: Path, setting: TaskSetting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never comes to its pace: the teacher is predicted, as students are, and shares are measured."""
    true_alone, true_beside = here.time_model, here.time_beside

    def slowed(timing: Timing) -> Timing:
        return replace(timing, p50_ms=3 * timing.p50_ms, at_pace=0.0, stable=False)

    monkeypatch.setattr(here, "time_model", lambda *model, **settings: slowed(true_alone(*model, **settings)))

    asked_for = []

    def twice_as_long(model: Path, teacher: Path, **settings: Any) -> Any:
        asked_for.append((model.name, teacher.relative_to(tmp_path).as_posix(), settings["rest_seconds"]))
        timing = slowed(true_beside(model, teacher, **settings).timing)
        return SimpleNamespace(timing=timing, other=replace(timing, p50_ms=2 * timing.p50_ms), share=0.5)

    monkeypatch.setattr(here, "time_beside", twice_as_long)
    asked, console = replace(setting, profile="host", max_latency="99%"), Remembering()
    report = exported(asked, tmp_path / "a", console)
    pipeline = Pipeline(asked, Run(tmp_path / "a"), Silent())
    target, bench = Target("host"), pipeline.opened.bench
    predicted = bench.profiles[target].latency(pipeline.opened.task.teacher.layers, target)[0]
    (row,), latency = report["budgets"], report["artefacts"][0]["latency"]
    assert row["teacher"] == bench.teacher_cost.latency == pytest.approx(predicted)
    assert row["limit"] == pytest.approx(0.99 * predicted)
    assert row["measured"] == pytest.approx(predicted / 2)
    assert (row["basis"], row["met"], latency["share"]) == ("measured beside the teacher", True, 0.5)
    assert {one[1] for one in asked_for} == {"a/teacher/teacher.onnx"}
    assert asked_for[0][2] == 0.0, "a finalist does not wait"
    assert asked_for[-1] == ("model.onnx", "a/teacher/teacher.onnx", None), "what ships does"
    assert any(line.startswith("the teacher's latency on host/fp32/1 is predicted, ") for line in console.said)
    html = (tmp_path / "a/report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "50.0 % of the teacher, beside the teacher" in html
    (tmp_path / "a/teacher/teacher.onnx").unlink()
    assert pipeline.opened.teacher_file().is_file(), "it is written again where it is needed"


def test_a_profile_is_measured_anew_where_the_machine_outruns_it(
    host: None, boards: Path, setting: TaskSetting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher's timing sees it, before a budget rests on the profile; a run that goes on measures nothing."""
    true_timing, true_measuring, timed, measured = here.time_model, prepare.measure_profile, [], []
    before = here.at_rest([load_profile("host")], 1)

    def twice_as_fast(model: Path, **settings: Any) -> Timing:
        timed.append(before / 2)
        return replace(true_timing(model, **settings), reference_ms=before / 2, at_pace=1.0)

    def measuring(*arguments: Any, **settings: Any) -> Profile:
        measured.append(settings["quickest"])
        return true_measuring(*arguments, **settings)

    monkeypatch.setattr(here, "time_model", twice_as_fast)
    monkeypatch.setattr(prepare, "measure_profile", measuring)
    monkeypatch.setattr(prepare, "AT_PACE", 1.1)
    asked, console = replace(setting, profile="host"), Remembering()
    bench = Pipeline(asked, Run(tmp_path / "a"), console).opened.bench
    assert measured == timed
    assert len(timed) == 1
    (said,) = (line for line in console.said if "this machine is" in line)
    assert re.fullmatch(
        r"this machine is 2\.00 times as fast now as when the profile host was measured, and its .* slow", said
    )
    (profile,) = bench.profiles.values()
    assert [entry["reference_ms"] for entry in profile.provenance] == pytest.approx(timed, rel=1e-6)
    again = Pipeline(asked, Run(tmp_path / "a"), Silent()).opened.bench
    assert again.profiles == bench.profiles
    assert (len(measured), len(timed)) == (1, 1)


def test_a_classifier_without_rows_has_no_percent_on_a_board(
    boards: Path, setting: TaskSetting, tmp_path: Path
) -> None:
    import torch
    from test_pipeline import Own

    torch.save(Own().state_dict(), tmp_path / "own.pt")
    own = replace(setting, teacher="tests.test_pipeline:Own", weights=str(tmp_path / "own.pt"), base="wrn-10-1")
    with pytest.raises(InputError, match=r"on board-a/fp32/1 the teacher's is neither .* give an absolute limit"):
        _ = Pipeline(own, Run(tmp_path / "a"), Silent()).opened.bench.budgets
    absolute = Pipeline(replace(own, max_latency="20ms", max_macs="50%"), Run(tmp_path / "b"), Silent())
    budgets = absolute.opened.bench.budgets
    assert [(one.quantity, one.teacher is None) for one in budgets] == [
        ("latency", True),
        ("macs", False),
        ("latency", True),
    ]
    assert len(absolute.opened.bench.task_vector) == len(ENTRIES)


def test_a_profile_without_the_threads_asked_for_says_which_it_has(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"take --profile pixel-4-cpu-3-medium/fp32/3, or --profile host"):
        check_profile(Target("pixel-4-cpu-3-medium"), Run(tmp_path))
    assert check_profile(Target("pixel-4-cpu-3-medium", threads=3), Run(tmp_path)).name == "pixel-4-cpu-3-medium"


def test_a_limit_far_beyond_the_teacher_does_not_shrink_the_others(tmp_path: Path) -> None:
    """A board with 4 GB: the bars of the page keep the teacher's scale, 360 units wide."""
    values = run_values()
    memory = {**values["budgets"][0], "name": "memory", "unit": "bytes", "asked": "4 GB of the device", "limit": 4e9}
    values["budgets"].append({**memory, "teacher": 2.8e6, "cheapest": 1e5, "predicted": 1e6, "measured": 1e6})
    values["targets"].append({**values["targets"][0], "profile": "board", "warning": "Beware of the board."})
    values["cost"]["board/fp32/1"] = values["teacher"]["cost"]["board/fp32/1"] = values["cost"][TARGET]
    write_report(tmp_path, values)
    html = (tmp_path / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    drawn = re.search(r'aria-label="Spent of what was allowed\..*?</svg>', html, re.S)
    assert drawn is not None
    assert "h360.0v11" in drawn[0], "the track is the teacher"
    assert drawn[0].count('class="limit"') == 2
    for words in (
        "more than the teacher takes",
        "every device; asked: 40%",
        "4 GB of the device",
        "Beware of the board.",
    ):
        assert words in html, words


# one network for each


def test_one_network_for_each_device_from_shared_scores(
    boards: Path, setting: TaskSetting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_images: None
) -> None:
    """Killed in the second device's search it resumes; no network is judged twice, no finished run done again."""
    trained: list[str] = []
    train, search = TrainedJudge.__call__, searching.Searching.search

    def judge(self: TrainedJudge, architecture: Architecture) -> Any:
        known = len(self._scores)
        score = train(self, architecture)
        if len(self._scores) > known:
            trained.append(json.dumps(self.task.space.describe(architecture), sort_keys=True))
        return score

    monkeypatch.setattr(TrainedJudge, "__call__", judge)
    asked = replace(setting, max_latency="100%", strategy="uniform")  # both devices let the same networks through
    alone = asked.for_each()["board-b"]
    console, out = Remembering(), tmp_path / "out"

    def interrupted(self: searching.Searching) -> Any:
        if self.setting.profile == "board-b":
            raise KeyboardInterrupt
        return search(self)

    monkeypatch.setattr(searching.Searching, "search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compress_each(asked, out, lambda folder: console)
    monkeypatch.setattr(searching.Searching, "search", search)
    first = {path: path.stat().st_mtime_ns for path in (out / "board-a").rglob("*.onnx")}
    code = compress_each(asked, out, lambda folder: console)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    reports = {name: json.loads((out / name / "report.json").read_text()) for name in ("board-a", "board-b")}
    for name, report in reports.items():
        assert [row["target"] for row in report["budgets"]] == [f"{name}/fp32/1"]
        assert report["artefacts"][0]["verdict"]["decision"]
    assert Run(out / "board-b").setting() == alone
    scored = [json.loads(line)["network"] for path in (out / "scores").iterdir() for line in path.open()]
    assert sum(report["search"]["evaluations"] for report in reports.values()) == 4
    assert len(scored) == len(set(scored)) == len(trained) == len(set(trained)) == 2
    assert not list(out.glob("board-*/scores"))
    assert (out / "teacher" / "accuracy.json").is_file()
    assert not list(out.glob("board-*/teacher/accuracy.json"))
    table = console.said[console.said.index("one network for each device") + 1 :]
    assert [line.split(" | ")[0] for line in table] == ["board-a", "board-b"]
    assert next(line.split(" | ")[-2] for line in table) in ("0", "4", "5")
    assert code == smallest(int(line.split(" | ")[-2]) for line in table)


def test_a_device_whose_budget_cannot_be_met_does_not_stop_the_others(
    boards: Path, setting: TaskSetting, tmp_path: Path, few_images: None
) -> None:
    console = Remembering()
    asked = replace(setting, profile="board-a, board-b", max_latency="board-a=1us, board-b=90%")
    assert compress_each(asked, tmp_path / "out", lambda folder: console) == 3
    assert json.loads((tmp_path / "out" / "board-a" / "report.json").read_text())["failed"]
    assert json.loads((tmp_path / "out" / "board-b" / "report.json").read_text())["failed"] is None
    assert any(line.startswith("board-a | did not finish") for line in console.said)
    with pytest.raises(InputError, match="no profile is called 'board-c'"):
        compress_each(replace(asked, profile="board-a, board-c", max_latency="90%"), tmp_path / "c", lambda _: console)
    assert not (tmp_path / "c" / "board-a" / "search.json").exists()


@pytest.mark.parametrize(("codes", "expected"), [((0, 0), 0), ((0, 5, 4), 4), ((5, 3), 3), ((6, 0), 6), ((6, 5), 5)])
def test_the_exit_code_of_several_is_the_smallest_of_those_that_are_not_0(
    codes: tuple[int, ...], expected: int
) -> None:
    assert smallest(codes) == expected
