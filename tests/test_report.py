"""The report: what is written is valid and complete, what is wrong is refused by name, what is missing is said."""

from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_doubles import TARGET, Page, int8_values, run_values

from rcnas_edge.cost.counting import QUANTITIES
from rcnas_edge.errors import InputError
from rcnas_edge.evaluate import Rate
from rcnas_edge.report import report, write_report
from rcnas_edge.report.drawing import ticks
from rcnas_edge.report.schema import SCHEMA, fields
from rcnas_edge.report.style import DARK, LETTERS, LIGHT
from rcnas_edge.report.words import UNITS, WORDS, amount, ball, duration, epsilon_of, points


def write(folder: Path, values: dict[str, Any]) -> tuple[dict[str, Any], Page]:
    """Both files of a report, read back; a constant such as NaN in the JSON fails."""

    def never(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json_path, html_path = write_report(folder, values)
    content = json.loads(json_path.read_text(encoding="utf-8"), parse_constant=never)
    return content, Page(html_path.read_text(encoding="utf-8"))


def test_every_value_comes_back_from_json_and_flops_are_two_macs(tmp_path: Path) -> None:
    values = run_values()
    content, _ = write(tmp_path, values)
    assert content.pop("schema") == 1
    assert content.pop("failed") is None
    assert content.pop("advice") is None
    for costs in (values["cost"], values["teacher"]["cost"]):
        costs[TARGET]["flops"] = 2 * costs[TARGET]["macs"]
    assert content == values
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_writing_twice_gives_the_same_bytes_and_a_report_is_its_own_input(tmp_path: Path) -> None:
    once = [path.read_bytes() for path in write_report(tmp_path / "a", run_values())]
    again = [path.read_bytes() for path in write_report(tmp_path / "b", json.loads(once[0]))]
    assert once == again


def test_the_page_says_what_the_run_found(tmp_path: Path) -> None:
    _, page = write(tmp_path, run_values())
    for words in (
        "wrn 1-2-1 x 32-40-56", "made from the teacher  wrn-16-2", "asked: 40%", "2.44 M MACs",
        "38.1 % of the teacher", "4.87 M FLOPs", "72.8 %", "1 MAC (multiply-accumulate) = 2 FLOPs", "0.284 ms", "✓ yes",
        "+4.4 % off the predicted one",
        "[68.7, 76.5] of n = 500", "74.2 %", "apgd-t", "checkpoint", "334,800", "✓ robust",
        "Robust: 72.8 % [68.7, 76.5] of 500 test images stay right under every attack tried (L∞, ε = 0.1/1).",
        "teacher 74.2 %, −1.4 points", "✓ asked ≤ 0.426 ms (60%)", "predicted 0.272 ms", "✓ 2 of 2",
        "2.6 times fewer MACs make it 2.5 times as fast", "apgd-ce, 40 steps, on 200 images",
        "No flag of masked gradients was raised", "AutoAttack's FAB was not run", "2.15.0", "1 min 56 s",
        "basic → robust", "64 → 40", "Epoch 36 was kept", "batch sizes 1, 5, 16",
        "Attacked by n-fgsm up to epoch 26, then by pgd-10", "40 architectures judged", "linf:0.1/1:10", "9f86d0818",
    ):  # fmt: skip
        assert words in page.text, words
    assert page.open == []
    assert len(re.findall(r"\bseed\b", page.text)) == 5, (
        "in the task, the verdict, a link and its heading and the versions, once each"
    )


def test_the_page_fetches_nothing_and_runs_nothing(tmp_path: Path) -> None:
    _, page = write(tmp_path, run_values())
    assert page.fetched.pop() == "report.json"
    assert [link.removeprefix("#") for link in page.fetched] == page.ids, "a link for every section"
    assert not {"script", "link", "img", "iframe", "object", "embed", "use", "image", "base"} & set(page.tags)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//|url\(|@import|@font-face|\son\w+=", html)
    assert "default-src 'none'" in html
    assert "prefers-color-scheme: dark" in html
    assert "width=device-width" in html


@pytest.mark.parametrize("place", ["name", "option", "task", "reason", "version", "target", "failed"])
def test_names_from_outside_are_text_not_markup(tmp_path: Path, place: str) -> None:
    evil = "<script>alert(1)</script>\"'&<b>\x00"
    values = run_values()
    if place == "name":
        values["architecture"]["name"] = evil
    elif place == "option":
        values["architecture"]["options"][evil] = evil
    elif place == "task":
        values["task"] = {evil: {evil: [evil]}}
    elif place == "reason":
        values["artefacts"][0]["verdict"]["reasons"] = [evil]
    elif place == "version":
        values["versions"][evil] = evil
    elif place == "target":
        values["targets"][0]["profile"] = evil
        for row in values["budgets"]:
            row["target"] = f"{evil}/fp32/1"
        for holder in (values, values["teacher"]):
            holder["cost"] = {f"{evil}/fp32/1": holder["cost"][TARGET]}
    else:
        values["failed"] = evil
    content, page = write(tmp_path, values)
    assert not {"script", "b"} & set(page.tags)
    assert "<script>alert(1)</script>\"'&<b>\N{REPLACEMENT CHARACTER}" in page.text
    assert evil in json.dumps(content, ensure_ascii=False).encode().decode("unicode_escape")


def test_a_file_name_that_is_no_unicode_is_written_all_the_same(tmp_path: Path) -> None:
    values = run_values()
    values["task"]["data_root"] = "/data/\udcff"
    content, _ = write(tmp_path, values)
    assert content["task"]["data_root"] == "/data/\udcff"


SECTIONS = [
    name for name, field in SCHEMA.fields.items() if field.optional and name not in ("targets", "failed", "advice")
]


@pytest.mark.parametrize("failed", [None, "training failed: the loss is not a number at epoch 3"])
@pytest.mark.parametrize("section", SECTIONS)
def test_any_section_may_be_missing_and_the_page_says_so(tmp_path: Path, section: str, failed: str | None) -> None:
    values = run_values()
    del values[section]
    if failed:
        values["failed"] = failed
    content, page = write(tmp_path, values)
    assert content[section] is None
    if section == "teacher":  # it has no section of its own: it stands beside the student
        assert "made from" not in page.text
        return
    assert section in page.ids
    reason = "the run ended before it" if failed else "this stage has not been run"
    assert page.text.count(f"Not there: {reason}.") == 1
    assert ("This run did not finish" in page.text) == bool(failed)
    assert (failed or "What ended it") in page.text or not failed


def test_a_run_that_failed_at_once_still_has_its_report(tmp_path: Path) -> None:
    failed = "a budget must be satisfiable, the cheapest has 0.3 M MACs: raise --max-macs"
    advice = ["Raise --max-macs from 1% to 0.3 M MACs or more."]
    content, page = write(tmp_path, {"task": {"dataset": "digits"}, "seed": 7, "failed": failed, "advice": advice})
    assert list(content) == ["schema", *SCHEMA.fields]
    assert page.text.count(failed) == 1
    assert page.text.count("Not there: the run ended before it") == len(SECTIONS) - 1, "the teacher has no section"
    for words in ("✗ did not finish", "What ended it", "What to try", advice[0]):
        assert words in page.text
    assert "robust:" not in page.text
    assert "digits" in page.text


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_numbers_that_are_not_finite_become_null_and_are_listed(tmp_path: Path, number: float) -> None:
    values = run_values()
    values["search"]["candidates"][2]["score"]["robust"] = number
    values["training"]["history"][1]["loss"] = number
    values["task"]["deep"] = [{"x": number}]
    values["budgets"][1]["measured"] = number
    content, page = write(tmp_path, values)
    assert content["search"]["candidates"][2]["score"]["robust"] is None
    assert content["training"]["history"][1]["loss"] is None
    assert content["task"]["deep"] == [{"x": None}]
    assert content["budgets"][1]["measured"] is None
    assert len(content["not_checked"]) == len(values["not_checked"]) + 4
    sentence = f"search.candidates[2].score.robust was not a finite number ({float(number)}) and is written as null"
    assert sentence in content["not_checked"]
    assert sentence in page.text


def test_what_the_other_floors_write_down_fits(tmp_path: Path) -> None:
    from rcnas_edge.cost import Cost
    from rcnas_edge.export import Artefact
    from rcnas_edge.nets.wrn_rows import network
    from rcnas_edge.profile import Target
    from rcnas_edge.search.protocol import Candidate, Score
    from rcnas_edge.space import Architecture
    from rcnas_edge.train.fit import Epoch
    from rcnas_edge.verdict import AttackRow, Comparison, Findings, Gates, Loss, Verdict

    values = run_values()
    target = Target()
    flags = np.arange(500) < 364
    found = Comparison(Rate(482, 500), Rate(371, 500), Loss.of(np.arange(500) < 371, flags))
    row = AttackRow("apgd-ce", "checkpoint", Rate.of(flags), 50_000, 49_500, 8.1)
    verdict = Verdict(
        "inconclusive", ("1 flag raised",),
        Findings(
            "linf:0.1:10", 500, 10, Rate(474, 500), Rate.of(flags), (row,), Rate(1000, 1000), {"clean_max": 1e-6},
            checkpoint=found, reference=found, flags=("FGSM beats PGD",),
        ),
        Gates(0.7, None), 0.03, "standard", 0, "model.onnx", 64 * "a", ("int8",), 12.0,
    )  # fmt: skip
    values["targets"] = [asdict(target)]
    values["cost"] = {str(target): Cost(macs=2_437_184, params=241_082, size=985_344, memory=1_224_328).to_dict()}
    base = network("wrn-16-2", image=(1, 8, 8), classes=10, mean=(0.5,), std=(0.5,))
    values["architecture"] |= {"stages": base.stages(), "teacher_stages": base.stages()}
    values["training"]["history"] = [
        asdict(Epoch(epoch=1, loss=1.2, clean=0.8, robust=0.5, learning_rate=0.1, seconds=1))
    ]
    judged = Candidate(Architecture((0, 1)), Score(0.5, 0.8, 256, "5be1f0", 0.9), {"macs": 1, "latency": 0.1}, True)
    told = judged.to_dict()
    values["search"]["candidates"] = [
        {
            "architecture": {"picks": told["picks"]},
            "score": told["score"],
            "cost": told["costs"],
            "feasible": told["feasible"],
            "chosen": True,
        }
    ]
    shipped = Artefact(Path("artefacts/model.onnx"), "onnx", "fp32", 64 * "a", 985_344)
    values["artefacts"] = [{**shipped.to_dict(), "latency": None, "verdict": verdict.to_dict()}]
    content, page = write(tmp_path, values)
    assert content["cost"][str(target)]["flops"] == 4_874_368
    assert content["artefacts"][0]["verdict"] == verdict.to_dict()
    for words in (
        base.stages()[0]["name"],
        "lost against the teacher",
        "1.4 points",
        "FGSM beats PGD",
        "level standard",
    ):
        assert words in page.text


def test_numpy_scalars_and_tuples_are_read_as_json(tmp_path: Path) -> None:
    values = run_values()
    values["seed"] = np.int64(3)
    values["training"]["seconds"] = np.float32(0.5)
    values["task"]["image"] = (1, 8, 8)
    content, _ = write(tmp_path, values)
    assert (content["seed"], content["training"]["seconds"], content["task"]["image"]) == (3, 0.5, [1, 8, 8])


def place(values: dict[str, Any], path: str) -> tuple[Any, Any]:
    """The holder and the last key of a path such as budgets.0.limit."""
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in way:
        values = values[part]
    return values, last


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("seed", "top level needs the field 'seed', which is missing: give it"),
        ("budgets.0.met", "budgets[0] needs the field 'met', which is missing: give it, or null"),
        (f"cost.{TARGET}.macs", f"cost.{TARGET} needs the field 'macs'"),
        ("search.candidates.4.score.robust", "search.candidates[4].score needs the field 'robust'"),
        ("artefacts.0.verdict.attacks.1.source", "artefacts[0].verdict.attacks[1] needs the field 'source'"),
        ("teacher.robust.low", "teacher.robust needs the field 'low'"),
    ],
)
def test_a_missing_field_is_named(path: str, sentence: str) -> None:
    values = run_values()
    holder, last = place(values, path)
    del holder[last]
    with pytest.raises(InputError, match=re.escape(sentence)):
        report(values)


@pytest.mark.parametrize(
    ("path", "at"),
    [
        ("budget", "top level"),
        ("budgets.0.limt", "budgets[0]"),
        ("search.candidates.0.costs", "search.candidates[0]"),
        ("artefacts.0.verdict.rate", "artefacts[0].verdict"),
        ("artefacts.0.latency.mean", "artefacts[0].latency"),
    ],
)
def test_an_unknown_field_is_named_with_those_that_there_are(path: str, at: str) -> None:
    values = run_values()
    holder, last = place(values, path)
    holder[last] = 1
    with pytest.raises(InputError, match=re.escape(f"report.json's {at} has no field {last!r}; its fields are: ")):
        report(values)


def test_unknown_keys_pass_where_others_have_the_word() -> None:
    values = run_values()
    values["architecture"]["grouping"] = values["architecture"]["stages"][0]["stride"] = 2
    values["task"]["new"] = values["versions"]["new"] = "1"
    content = report(values)
    assert content["architecture"]["grouping"] == content["architecture"]["stages"][0]["stride"] == 2
    assert content["task"]["new"] == content["versions"]["new"] == "1"


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        ("seed", 1.5, "seed is a whole number, got 1.5"),
        ("seed", None, "seed is never null"),
        ("seed", True, "seed is a whole number, got True"),
        ("schema", 2, "schema is 1"),
        ("budgets.0.met", 1, "budgets[0].met is true or false, got 1"),
        ("budgets.0.limit", "40%", "budgets[0].limit is a number, got '40%'"),
        ("budgets.0.target", "phone/fp32/1", "target is one of the run's targets (host/fp32/1), got 'phone/fp32/1'"),
        (f"cost.{TARGET}.flops", 2_437_184, f"cost.{TARGET}.flops is 2 x macs = 4874368, got 2437184"),
        (f"cost.{TARGET}.params", -1, f"cost.{TARGET}.params is at least 0, got -1"),
        ("artefacts.0.verdict.decision", "fine", "'inconclusive', 'not checked', got 'fine'"),
        ("artefacts.0.verdict.flags", ["zero gradients"], "never robust while a flag is raised"),
        ("artefacts.0.verdict.sha256", "b" * 64, "verdict.sha256 is that of the artefact"),
        ("artefacts.0.verdict.robust.hits", 501, "a rate with hits <= total"),
        ("artefacts.0.verdict.robust.value", 0.9, "hits / total = 0.728, got 0.9"),
        ("artefacts.0.verdict.robust.low", math.nan, "never null and always a finite number"),
        ("not_checked", "nothing", "not_checked is a list, got 'nothing'"),
        ("task", {"x": object()}, "task.x is a JSON value"),
        ("task", {3: "x"}, "task is an object with texts as keys"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_the_rule_and_the_value(path: str, value: Any, rule: str) -> None:
    values = run_values()
    holder, last = place(values, path)
    holder[last] = value
    with pytest.raises(InputError, match=re.escape(rule)):
        report(values)


def test_a_refused_report_leaves_the_old_files(tmp_path: Path) -> None:
    write_report(tmp_path, run_values())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError):
        write_report(tmp_path, {"seed": 1})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_report_does_not_change_what_it_is_given() -> None:
    values = run_values()
    untouched = copy.deepcopy(values)
    report(values)
    assert values == untouched


def test_every_field_is_documented_once() -> None:
    rows = list(fields())
    places = [at for at, _, _ in rows]
    assert len(set(places)) == len(places)
    assert all(kind and len(meaning) > 3 for _, kind, meaning in rows)
    for at in (
        "budgets[].met",
        "cost.*.macs",
        "search.candidates[].score.robust",
        "artefacts[].verdict.attacks[].source",
    ):
        assert at in places


def test_the_search_curve_is_the_running_best_of_what_is_within_the_budgets(tmp_path: Path) -> None:
    values = run_values()
    score = {"robust": 0.0}
    shape = {"architecture": {}, "cost": {"macs": 1_000_000}, "chosen": False}
    told = [(0.30, True), (0.90, False), (0.50, True), (None, True), (0.40, True)]
    values["search"]["candidates"] = [
        {**shape, "score": {**score, "robust": robust}, "feasible": feasible} for robust, feasible in told
    ]
    write_report(tmp_path, values)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    (curve,) = [found for found in re.findall(r'd="([^"]*)" class="curve one"', html) if "H" in found][:1]
    heights = [float(found) for found in re.findall(r"V([\d.]+)", curve)]
    start = float(re.match(r"M[\d.]+ ([\d.]+)", curve)[1])
    # 30 % at first; the 90 % over the budget does not count; then 50 % to the end (up is a smaller number)
    assert len(heights) == 3
    assert heights[0] == heights[1] == heights[2] < start
    assert "rises from 30.0 % to 50.0 %" in html


def test_the_search_says_where_it_started(tmp_path: Path) -> None:
    values = run_values()

    def told(**changes: object) -> str:
        values["search"] |= changes
        write_report(tmp_path, values)
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    assert "It started from scratch." in told()
    agent = {"name": "mine", "sha256": "a" * 64, "tasks": 16, "saw_data_and_attack": False}
    assert "started from the agent mine, which was meta-trained on 16 tasks, none with" in told(agent=agent)
    assert "tasks, one of them with this data set" in told(agent=agent | {"saw_data_and_attack": True})
    assert "It started from" not in told(agent=None, strategy="random")


def test_a_student_without_stages_and_a_search_without_candidates_are_told(tmp_path: Path) -> None:
    values = run_values()
    del values["architecture"]["layers"]
    del values["architecture"]["stages"], values["architecture"]["teacher_stages"], values["training"]["history"]
    values["search"]["candidates"] = []
    values["artefacts"][0]["verdict"] = values["artefacts"][0]["latency"] = None
    values["budgets"] = []
    _, page = write(tmp_path, values)
    for words in (
        "Its stages were not given", "There is no number to draw", "history of this training was not given",
        "This file was not attacked", "Its latency was not measured", "No budget was asked for",
    ):  # fmt: skip
        assert words in page.text, words


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (2_437_184, "MACs", "2.44 M MACs"), (999_600, "bytes", "1 MB"), (985_344, "bytes", "985 kB"),
        (12, "bytes", "12 B"), (0.0712, "ms", "71.2 µs"), (0.1, "ms", "0.1 ms"),
        (0, "ms", "0 ms"), (1234.5, "ms", "1234 ms"),
        (5_243_000_000, "MACs", "5.24 G MACs"),
        (0, "parameters", "0 parameters"), (None, "ms", "not known"),
    ],
)  # fmt: skip
def test_amounts_in_words(value: float | None, unit: str, words: str) -> None:
    assert amount(value, unit).replace("\N{NO-BREAK SPACE}", " ") == words


def test_durations_in_words() -> None:
    assert [duration(seconds) for seconds in (0.04, 59.4, 59.99, 116.0, 3725.0)] == [
        "0.04 s", "59.4 s", "1 min 0 s", "1 min 56 s", "1 h 2 min",
    ]  # fmt: skip


def test_ticks_are_round_and_cover_the_range() -> None:
    assert ticks(0.31, 0.74) == [0.2, 0.4, 0.6, 0.8]
    assert ticks(1, 3, whole=True) == [1, 2, 3]
    for low, high in ((0, 1), (-3.2, 7.9), (1e-6, 2e-6), (99.0, 99.1), (5, 5), (0, 0), (1e-6, 1e-6), (-4e9, -4e9)):
        found = ticks(low, high)
        assert found[0] <= low
        assert found[-1] >= high
        assert 2 <= len(found) <= 8


def test_words_of_a_threat_and_of_a_difference() -> None:
    assert ball("linf:8/255:10").replace("\N{NO-BREAK SPACE}", " ") == "L∞, ε = 8/255"
    assert ball("something else") == "something else"
    told = {"linf:8/255:10": 8 / 255, "linf:0.1:5:0.02": 0.1, "linf:x:5": None, "linf": None, "linf:1/0:5": None}
    assert {text: epsilon_of(text) for text in told} == told
    found = [points(value).replace("\N{NO-BREAK SPACE}", " ") for value in (0.0123, -0.004, 0.0001, -0.0001)]
    assert found == ["+1.2 points", "−0.4 points", "±0.0 points", "±0.0 points"]


# how it looks


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, as WCAG 2.2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_letters_and_marks_stand_out_in_both_schemes(scheme: dict[str, str]) -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for name in LETTERS:
        for ground in ("paper", "panel"):
            assert contrast(scheme[name], scheme[ground]) >= 4.5, (name, ground)
    for name in ("one", "two", "faint", "ink"):
        assert contrast(scheme[name], scheme["track"]) >= 3, "a bar on the teacher's track"
    assert set(LIGHT) == set(DARK)


def test_every_drawing_says_in_words_what_it_shows(tmp_path: Path) -> None:
    write_report(tmp_path, run_values())
    html = (tmp_path / "report.html").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    drawings = re.findall(r"<svg ([^>]*)>", html)
    told = [found[1] for opened in drawings if (found := re.search('aria-label="([^"]*)"', opened))]
    assert len(told) == 11
    assert all('role="img"' in opened or 'aria-hidden="true"' in opened for opened in drawings)
    for words in (
        "Accuracy on test images. robust, this file: 72.8 %; robust, trained network: 72.8 %; robust, teacher: 74.2 %",
        "ε = 0.05: 87.0 % [81.6, 91.0] of n = 200, apgd-ce, 40 steps",
        "stage3: 2 → 1 blocks, 128 → 56 channels, basic → robust",
        "MACs: 38.1 %; parameters: 34.9 %",
        "stages.0.0.to_blocked: MACs 0.0 %, time 2.9 %; stages.0.0.conv1: MACs 49.8 %, time 37.5 %",
        "MACs: 2.44 M of 2.56 M ✓; latency, one image: 0.284 ms of 0.426 ms ✓",
        "clean from", "loss from", "evaluation 1",
    ):  # fmt: skip
        assert any(words in text for text in told) or words in html, words


def test_the_student_stands_inside_the_teacher(tmp_path: Path) -> None:
    """One bar per block, on the same places, as high as the channels say: 128 of 128 is the whole height of 96."""
    write_report(tmp_path, run_values())
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    bars = re.findall(r'd="M([\d.]+) ([\d.]+)v-([\d.]+)h([\d.]+)v[\d.]+z" class="(within|block block-\d)"', html)
    teacher = [(float(x), float(height)) for x, _, height, _, look in bars if look == "within"]
    student = [(float(x), float(height)) for x, _, height, _, look in bars if look != "within"]
    assert [height for _, height in teacher] == [24, 24, 48, 48, 96, 96]
    assert [height for _, height in student] == [24, 30, 30, 42]
    assert {x for x, _ in student} < {x for x, _ in teacher}
    assert [look for *_, look in bars if look != "within"] == ["block block-0"] * 3 + ["block block-1"]


def test_the_sweep_shows_the_verdict_apart_and_every_interval(tmp_path: Path) -> None:
    write_report(tmp_path, run_values())
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    drawn = html[html.index("Robust accuracy against epsilon</figcaption>") :]
    drawn = drawn[: drawn.index("</figure>")]
    assert drawn.count('class="whisker') == 4
    assert drawn.count('class="star two"') == 1
    assert drawn.count("<circle") == 3
    (axis,) = re.findall(r'd="M([\d.]+) ([\d.]+)H([\d.]+)" class="marker"', drawn)
    top, bottom = 26, 188
    assert float(axis[1]) == pytest.approx(bottom - 0.1 * (bottom - top)), "guessing among ten classes is 10 %"


def test_the_curve_over_steps_stands_beside_it(tmp_path: Path) -> None:
    _, page = write(tmp_path, run_values())
    assert "Robust accuracy against steps" in page.text
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    drawn = html[html.index("Robust accuracy against steps</figcaption>") :]
    drawn = drawn[: drawn.index("</figure>")]
    assert drawn.count('class="whisker') == drawn.count("<circle") == 5
    assert "100 steps: 74.0\N{NO-BREAK SPACE}%" in drawn
    assert "One weaker attack (apgd-ce, on 200 images)" in drawn


def test_an_int8_file_tells_its_evasions_its_repairs_and_what_was_replayed(tmp_path: Path) -> None:
    values = run_values()
    values["artefacts"].append(int8_values())
    content, page = write(tmp_path, values)
    assert content["artefacts"][1]["verdict"]["evasion"]["rate"]["hits"] == 31
    for words in (
        "the trained network is right and this file wrong; of images that both get right clean",
        "6.6 % [4.7, 9.2] of n = 470",
        "Outputs are probabilities (softmax): attacks run on their logarithm, which changes no class.",
        "robust to naive PGD",
        "92.6 %",
        "bootstrap [0.0, 2.4], McNemar's p = 0.146",
        "same class as the trained network",
        "2 attacks replayed from model.onnx",
        "500 of 10000 images, drawn without replacement by seed 0",
        "gradients of the re-import, straight through its rounding",
        "The files that ship, on the same test images",
        "evaded, onnx, int8",
    ):
        assert words in " ".join(page.text.split()), words


def test_a_threat_in_255ths_has_an_axis_in_255ths(tmp_path: Path) -> None:
    values = run_values()
    verdict = values["artefacts"][0]["verdict"]
    verdict["threat"] = "linf:8/255:10"
    for point, epsilon in zip(verdict["eps_sweep"], (0, 4, 8, 16), strict=True):
        point["epsilon"] = epsilon / 255
    _, page = write(tmp_path, values)
    assert "ε, in 1/255" in page.text
    assert "ε = 4: 87.0 %" in page.text
    assert "ε = 8/255" in page.text


def test_deep_networks_are_gathered_into_blocks_that_keep_the_sums(tmp_path: Path) -> None:
    values = run_values()
    values["architecture"]["layers"] = [
        {"name": f"stages.0.{block}.{layer}", "kind": "conv", "macs": 10, "params": 1, "latency_ms": 0.01,
         "measured": True}
        for block in range(10) for layer in ("a", "b", "c", "d")
    ]  # fmt: skip
    _, page = write(tmp_path, values)
    assert "Block by block" in page.text
    assert page.text.count("10.0 % of the MACs") == 10
    assert "stages.0.9.d" not in page.text


def test_several_files_stand_side_by_side_and_each_has_its_verdict(tmp_path: Path) -> None:
    values = run_values()
    engine = copy.deepcopy(values["artefacts"][0])
    engine |= {"path": "artefacts/model.engine", "format": "tensorrt", "precision": "fp16", "sha256": "b" * 64}
    engine["verdict"] |= {
        "decision": "not checked", "reasons": ["there is no such device here"], "clean": None, "robust": None,
        "parity": None, "attacks": [], "eps_sweep": [], "checkpoint": None, "reference": None, "sha256": "b" * 64,
    }  # fmt: skip
    engine["latency"] = None
    values["artefacts"].insert(0, engine)
    _, page = write(tmp_path, values)
    for words in ("artefacts/model.engine", "– not checked", "there is no such device here", "No attack was run"):
        assert words in page.text, words
    assert "Robust: 72.8 %" in page.text, "the top speaks of the file that was attacked"


@pytest.mark.parametrize("decision", ["not robust", "inconclusive", "not checked"])
def test_a_decision_is_a_sign_and_a_word_and_a_colour(tmp_path: Path, decision: str) -> None:
    values = run_values()
    values["artefacts"][0]["verdict"]["decision"] = decision
    _, page = write(tmp_path, values)
    sign = {"not robust": "✗", "inconclusive": "?", "not checked": "–"}[decision]
    assert f"{sign} {decision}" in page.text
    assert "✓ robust" not in page.text


def test_names_of_any_length_stay_inside_their_drawing(tmp_path: Path) -> None:
    values = run_values()
    long = "a_very_long_name_that_nobody_would_give_to_a_stage_of_a_network_but_somebody_did"
    for stage in values["architecture"]["stages"]:
        stage["name"] = stage["block"] = long + stage["name"]
    values["architecture"]["layers"][0]["name"] = long
    _, _page = write(tmp_path, values)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert long in html, "the text alternative has the whole name"
    assert all(len(text) < 40 for text in re.findall(r'class="axis[^"]*">([^<]*)</text>', html) if "_" in text)


def test_twenty_stages_have_room(tmp_path: Path) -> None:
    values = run_values()
    many = [{"name": f"cell {n}", "depth": 3, "width": 16 * (n + 1), "block": "mixed"} for n in range(20)]
    values["architecture"] |= {"stages": many, "teacher_stages": []}
    _, _page = write(tmp_path, values)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.count('class="block block-0"') == 61, "three bars each, and the key"
    places = [float(x) for x in re.findall(r'd="M([\d.]+) [\d.]+v-[\d.]+h[\d.]+v[\d.]+z" class="block', html)]
    assert places == sorted(places)
    assert places[-1] < 360


def test_kernels_without_blocks_are_shown_by_cost_and_the_others_as_one(tmp_path: Path) -> None:
    values = run_values()
    values["architecture"]["layers"] = [
        {"name": f"node{n}", "kind": "conv", "macs": 10, "params": 1, "latency_ms": n / 1770, "measured": True}
        for n in range(60)
    ]  # fmt: skip
    _, page = write(tmp_path, values)
    # 0 + 1 + ... + 59 = 1770: the 23 largest are 37 to 59, the other 37 take 666 / 1770 = 37.6 % of the time
    assert "37 others: 37.6 % of the time" in page.text
    assert "37 others: 61.7 % of the MACs" in page.text
    assert "node37:" in page.text
    assert "node36:" not in page.text
    assert page.text.index("node37:") < page.text.index("node59:"), "in the order in which they run"


def test_more_stages_than_have_room_are_numbered_and_told_in_a_table(tmp_path: Path) -> None:
    values = run_values()
    many = [{"name": f"cell {n}", "depth": 1, "width": 16, "block": "mixed"} for n in range(5)]
    values["architecture"] |= {"stages": many, "teacher_stages": [{**many[0], "width": 32}]}
    _, page = write(tmp_path, values)
    for words in ("5. cell 4", "32 → 16", "none → 1"):
        assert words in page.text, words


def test_the_words_know_every_quantity_by_the_unit_it_is_counted_in() -> None:
    assert UNITS == QUANTITIES, "report_words has them again, because a report is written without numpy"
    assert set(WORDS) == set(QUANTITIES)
