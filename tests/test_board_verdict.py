"""What a replay on a board says: each decision by hand-made answers, and results.json read as a stranger's file."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rcnas_edge.board.checks import hexed
from rcnas_edge.board.timing import Timing
from rcnas_edge.bundle.results import Ran, Replayed, parse_board_results, read_board_results
from rcnas_edge.bundle.verdict import AGREES, FAILS, UNSURE, judged
from rcnas_edge.errors import InputError
from rcnas_edge.evaluate import Rate
from rcnas_edge.verdict import INCONCLUSIVE, ROBUST, Findings, Gates, Verdict

N, MARGIN = 400, 0.03
RAN = Ran("model.onnx", "a" * 64, "model.onnx", "a" * 64, "onnxruntime 9.9", "CPUExecutionProvider", 1)


def host(robust: int = 200, *, n: int = N) -> dict[str, np.ndarray]:
    """n images that the host gets right, with a point each that fools all but the first `robust` of them."""
    labels = np.zeros(n, dtype=np.int64)
    points = (np.arange(n) >= robust).astype(np.int64)
    return {"labels": labels, "of": np.arange(n), "host/model.onnx/images": labels, "host/model.onnx/points": points}


def verdict(decision: str = INCONCLUSIVE, gates: Gates | None = None) -> Verdict:
    findings = Findings("linf:0.1:10", N, 10, Rate(N, N), Rate(200, N), (), parity=Rate(N, N))
    return Verdict(decision, ("why",), findings, gates or Gates(), MARGIN, "smoke", 0, "model.onnx", "a" * 64, (), 1.0)


def board(robust: int, *, clean: int = N, n: int = N) -> Replayed:
    """A board that gets the first `clean` images right, and of their points the first `robust`."""
    places = np.arange(n)
    return Replayed(RAN, places < clean, places < robust, "now")


@pytest.mark.parametrize(
    ("robust", "clean", "n", "decision", "words"),
    [
        (200, 400, N, AGREES, "the same ones: the host's verdict on model.onnx, inconclusive, carries over"),
        (198, 400, N, AGREES, r"lost against the host, 0\.5 points .*, is within 3 points"),
        (202, 400, N, AGREES, "is within 3 points"),
        (180, 400, N, FAILS, r"adversarial accuracy lost against the host, 5\.0 points .*, is above 3 points"),
        (200, 380, N, FAILS, r"clean accuracy lost against the host, 5\.0 points"),
        (
            240,
            400,
            N,
            UNSURE,
            r"10\.0 points more are right than on the host: the points were made for other arithmetic",
        ),
        (9, 40, 40, UNSURE, r"may be above 3 points: n = 40 images are too few to tell"),
    ],
)
def test_the_decision_follows_what_the_board_lost(robust, clean, n, decision, words) -> None:
    stored = host(10 if n == 40 else 200, n=n)
    if decision == UNSURE and n == 40:
        stored["host/model.onnx/points"] = np.roll(stored["host/model.onnx/points"], 1)  # as many, others
        robust = 10
    found = judged(board(robust, clean=clean, n=n), stored, verdict(), MARGIN)
    assert found.decision == decision
    assert re.search(words, found.reasons[0]), found.reasons
    assert "no attack was run on the board" in found.reasons[-1], "a replay is always named as one"
    assert found.robust.hits == min(robust, clean)
    assert found.exit_code == {AGREES: 0, FAILS: 4, UNSURE: 5}[decision]


def test_a_replay_never_says_more_than_the_host() -> None:
    for decision in (ROBUST, INCONCLUSIVE):
        found = judged(board(200), host(), verdict(decision), MARGIN)
        assert found.decision == AGREES
        assert f"the host's verdict on model.onnx, {decision}, carries over" in found.reasons[0]
    unattacked = judged(board(200), host(), None, MARGIN)
    assert (unattacked.decision, unattacked.exit_code) == (UNSURE, 5)
    assert "did not attack this file" in unattacked.reasons[0]
    stranger = {key: value for key, value in host().items() if not key.startswith("host/")}
    assert judged(board(200), stranger, verdict(ROBUST), MARGIN).decision == UNSURE


def test_a_gate_fails_on_the_board_alone() -> None:
    asked = verdict(ROBUST, Gates(min_robust=0.499))
    assert judged(board(200), host(), asked, MARGIN).decision == AGREES
    found = judged(board(199), host(), asked, MARGIN)
    assert found.decision == FAILS
    assert "is below the 49.9 % asked for" in found.reasons[0]


def test_a_gate_on_some_of_the_attacked_images_fails_by_its_upper_bound_alone() -> None:
    """200 of 400 stored images, 45.1 to 54.9 %, of a verdict on 4000."""

    def asked(gate: float) -> Verdict:
        found = verdict(ROBUST, Gates(min_robust=gate))
        return replace(found, findings=replace(found.findings, n=4000))

    assert judged(board(200), host(), asked(0.6), MARGIN).decision == AGREES, "every answer is the host's"
    unclear = judged(board(199), host(), asked(0.51), MARGIN)
    assert unclear.decision == UNSURE
    assert "may be below the 51 % asked for: the replay has 400 of the 4000 images" in unclear.reasons[0]
    assert judged(board(199), host(), asked(0.6), MARGIN).decision == FAILS
    assert judged(board(199), host(), asked(0.49), MARGIN).decision == AGREES


def test_clean_accuracy_is_held_to_the_same() -> None:
    stored = host(200)
    stored["host/model.onnx/images"] = (np.arange(N) >= 380).astype(np.int64)
    gained = judged(board(200), stored, verdict(), MARGIN)
    assert (gained.decision, gained.exit_code) == (UNSURE, 5)
    assert "5.0 points more are right than on the host: clean images are answered otherwise" in gained.reasons[0]
    stored = host(200)
    stored["host/model.onnx/images"] = (np.arange(N) >= 380).astype(np.int64)
    moved = Replayed(RAN, (np.arange(N) < 360) | (np.arange(N) >= 380), np.arange(N) < 200, "now")
    unclear = judged(moved, stored, verdict(), MARGIN)  # 20 lost and 20 gained
    assert unclear.decision == UNSURE
    assert re.search(
        r"clean accuracy lost against the host, 0\.0 points .* n = 400 images are too few", unclear.reasons[0]
    )


def test_a_file_that_failed_its_selftest_is_at_best_inconclusive() -> None:
    found = judged(board(200), host(), verdict(ROBUST), MARGIN, doubt="it answers otherwise")
    assert (found.decision, found.reasons[0]) == (UNSURE, "it answers otherwise")
    assert judged(board(180), host(), verdict(ROBUST), MARGIN, doubt="it answers otherwise").decision == FAILS


def test_answers_to_other_examples_are_refused() -> None:
    with pytest.raises(InputError, match=r"answers the bundle's 400 images and 400 points, that of model\.onnx has 40"):
        judged(board(4, n=40), host(), verdict(), MARGIN)


# results.json


def results() -> dict[str, Any]:
    """What run.py writes."""
    timing = Timing(1.0, 1.2, 300, True, "onnxruntime 9.9, batch 1", 1, "CPUExecutionProvider", 0.9, 1.1, 0.0, 0.0, 3,
                    10.0, 0.1, 0.5, 0.9)  # fmt: skip
    right = np.arange(11) % 2 == 0
    return {
        "results": 1,
        "bundle": {"digest": "b" * 64, "made_by": "rcnas-edge 9.9", "replay": "c" * 64},
        "machine": {"cpu": "Cortex", "features": "", "board": "Pi", "cores": 4, "system": "Linux", "python": "3.9.1",
                    "numpy": "1.2"},
        "selftest": {
            "files": 7,
            "wrong": {},
            "outputs": [{**asdict(RAN), "drift": 1e-7, "tolerance": 1e-3, "same": 8, "n": 8, "passed": True}],
            "when": "now",
        },
        "bench": [{**asdict(RAN), **timing.to_dict(), "load": None, "seen": {}, "when": "now"}],
        "replay": [
            {
                **asdict(RAN), "n": 11, "points": 3, "clean": {}, "robust": {}, "right": hexed(right),
                "right_points": "a0", "host": None, "seconds": 1.0, "when": "now",
            }
        ],
        "predict": [],
        "engines": [],
    }  # fmt: skip


def test_results_are_read_bit_by_bit(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results()))
    found, values = read_board_results(tmp_path / "results.json")
    assert values == results()
    assert found.replayed[0].right.tolist() == [True, False] * 5 + [True]
    assert found.replayed[0].right_points.tolist() == [True, False, True]
    assert found.benched[0].timing.p50_ms == 1.0
    assert found.answered[0].drift == 1e-7
    assert (found.whole, found.machine["board"]) == (True, "Pi")
    assert found.ran()[0] == RAN


@pytest.mark.parametrize(
    ("way", "value", "words"),
    [
        (("results",), 2, "the version of results is 1 here, got 2"),
        (("kit",), {}, "results of a kit: 'rcnas-edge profile import"),
        (("more",), {}, "has no key 'more'"),
        (("bundle", "digest"), "b", "bundle digest is a sha256 of 64 hex digits, got 'b'"),
        (("machine", "cpu"), None, "machine 'cpu' is a number"),
        (("machine", "board"), "a\x1b[2J", "without control characters"),
        (("selftest", "outputs"), {}, "selftest outputs is a list of at most 1000 entries"),
        (("selftest", "outputs", 0, "drift"), -1, "drift is a number"),
        (("bench", 0, "p50_ms"), 0, "bench 1 p50_ms is a number above 0"),
        (("bench", 0, "p50_ms"), float("inf"), "Infinity is no number"),
        (("bench", 0, "threads"), 0, "bench 1 threads is a whole number"),
        (("bench", 0, "stable"), "yes", "bench 1 stable is true or false"),
        (("replay", 0, "right"), "ffff", "hex of 11 bits, and zeros to the end"),
        (("replay", 0, "right"), "ff", "hex of 11 bits"),
        (("replay", 0, "right"), "AA8", "hex of 11 bits"),
        (("replay", 0, "n"), True, "replay 1 n is a whole number"),
        (("replay", 0, "n"), 10**12, "replay 1 n is a whole number"),
        (("replay", 0, "of_sha256"), "A" * 64, "of_sha256 is a sha256"),
        (("replay", 0), [], "replay 1 is a table"),
    ],
)
def test_what_is_wrong_in_results_is_one_sentence(way: tuple[Any, ...], value: object, words: str) -> None:
    content = results()
    place: Any = content
    for key in way[:-1]:
        place = place[key]
    place[way[-1]] = value
    with pytest.raises(InputError, match=words) as error:
        parse_board_results(json.dumps(content), "results.json")
    assert str(error.value).startswith("results.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [1.01, -0.1])
def test_a_share_of_turns_is_between_0_and_1(share: float) -> None:
    content = results()
    content["bench"][0]["at_pace"] = share
    with pytest.raises(InputError, match="bench 1 at_pace"):
        parse_board_results(json.dumps(content), "results.json")


def test_the_timing_of_an_earlier_bundle_counted_every_turn() -> None:
    content = results()
    assert parse_board_results(json.dumps(content), "results.json")[0].benched[0].timing.at_pace == 0.9
    del content["bench"][0]["at_pace"]
    assert parse_board_results(json.dumps(content), "results.json")[0].benched[0].timing.at_pace == 1.0


def test_every_key_that_is_missing_is_named() -> None:
    def each(values: Any, way: tuple[Any, ...] = ()):
        for key in values if isinstance(values, dict) else range(len(values)):
            yield (*way, key)
            if isinstance(values[key], (dict, list)):
                yield from each(values[key], (*way, key))

    free = (("machine", "features"), ("machine", "cores"), ("bench", 0, "at_pace"))
    for way in each(results()):
        if isinstance(way[-1], int) or way in free:
            continue
        content = copy.deepcopy(results())
        place: Any = content
        for key in way[:-1]:
            place = place[key]
        del place[way[-1]]
        with pytest.raises(InputError) as error:
            parse_board_results(json.dumps(content), "results.json")
        assert str(way[-1]) in str(error.value), way


def test_what_is_no_json_is_one_sentence(tmp_path: Path) -> None:
    for content in (b"", b"{", b"[" * 100_000, b"\xff\xfe", b"null"):
        (tmp_path / "r.json").write_bytes(content)
        with pytest.raises(InputError):
            read_board_results(tmp_path / "r.json")
    with pytest.raises(InputError, match=r"cannot be read"):
        read_board_results(tmp_path / "none.json")
    with pytest.raises(InputError):
        read_board_results(tmp_path)


def test_a_replay_is_plain_values() -> None:
    found = judged(board(198), host(), verdict(), MARGIN).to_dict()
    assert json.loads(json.dumps(found)) == found
    assert (found["n"], found["points"], found["same"]["hits"]) == (N, N, 798)
    assert found["loss"]["value"] == pytest.approx(2 / N)
