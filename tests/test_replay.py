"""Every adversarial example on every artefact: the worst case over all of them, in any order and however often."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from verify_doubles import Linear, numpy_of

from rcnas_edge.attacks import Threat
from rcnas_edge.errors import InputError, UncheckedError
from rcnas_edge.evaluate import Rate
from rcnas_edge.verdict import Loss
from rcnas_edge.verify import Gates, Level, Subject, Verdict, saved_flags, verify
from rcnas_edge.verify.replay import cross_replay

N = 90
THREAT = Threat.parse("linf:0.03:5")
LEVEL = Level(
    images=N, seeds=1, square_queries=10, artefact_queries=20, margin=0.3, sweep_images=20, sweep_steps=5,
    evasion_steps=10,
)  # fmt: skip


NAMES = ("model.onnx", "model.int8.onnx", "model.engine")


class Files:
    """Three files of one checkpoint, each verified on the same images."""

    def __init__(self, folder: Path, **more) -> None:
        self.parent = Linear().eval()
        self.models = dict(zip(NAMES, (self.parent, Linear(0.2).eval(), Linear(0.4).eval()), strict=True))
        draw = np.random.default_rng(0)
        images = draw.uniform(0.2, 0.8, (N, 1, 4, 4)).astype(np.float32)
        labels = numpy_of(self.parent)(images).argmax(1)
        labels[:9] = (labels[:9] + 1) % 4
        self.arrays = {name: folder / f"{name}.npz" for name in NAMES}
        self.verdicts: dict[str, Verdict] = {}
        for name, model in self.models.items():
            twin = None if name == "model.engine" else model  # nobody reads that one back: its own attacks are weak
            subject = Subject(numpy_of(model), twin, parent=self.parent)
            self.verdicts[name] = verify(
                subject, images, labels, THREAT, level=LEVEL, name=name, arrays=self.arrays[name], **more
            )

    def replayed(self, name: str) -> Verdict:
        others = {other: path for other, path in self.arrays.items() if other != name}
        return cross_replay(self.verdicts[name], self.arrays[name], numpy_of(self.models[name]), others)


def loaded(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as saved:
        return dict(saved)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Files, dict[str, dict[str, np.ndarray]], dict[str, Verdict]]:
    made = Files(tmp_path_factory.mktemp("replay"), gates=Gates(min_robust=0.3))
    before = {name: loaded(path) for name, path in made.arrays.items()}
    return made, before, {name: made.replayed(name) for name in NAMES}


def test_the_worst_case_is_over_every_point_of_every_file(files):
    made, before, after = files
    lost = 0
    for name in NAMES:
        answers = numpy_of(made.models[name])
        expected = before[name]["clean"].copy()
        for saved in before.values():
            for key in saved:
                if key.startswith("points/"):
                    expected &= answers(saved[key]).argmax(1) == saved["labels"]
        assert after[name].robust == Rate.of(expected)
        np.testing.assert_array_equal(saved_flags(made.arrays[name])[1], expected)
        lost += made.verdicts[name].robust.hits - after[name].robust.hits
    assert lost > 0, "somewhere a point of another file counts"


def test_rows_tell_whose_points_they_were_and_only_ever_fall(files):
    made, _, after = files
    rows = after["model.onnx"].findings.attacks
    own = made.verdicts["model.onnx"].findings.attacks
    assert rows[: len(own)] == own
    others = [(row.name, row.source) for row in rows[len(own) :]]
    assert ("apgd-t (re-import)", "model.int8.onnx") in others
    assert ("diva (re-import)", "model.int8.onnx") in others
    assert ("square (artefact)", "model.engine") in others
    hits = [row.robust.hits for row in rows]
    assert hits == sorted(hits, reverse=True)
    assert hits[-1] == after["model.onnx"].robust.hits


def test_loss_evasion_and_decision_are_made_anew(files):
    made, before, after = files
    parent = numpy_of(made.parent)
    for name in NAMES[1:]:
        saved, said = loaded(made.arrays[name]), after[name]
        met, evaded = saved["checkpoint/clean"].copy(), np.zeros(N, dtype=bool)
        both = met & saved["clean"]
        for other in before.values():
            for key in other:
                if key.startswith("points/"):
                    right = parent(other[key]).argmax(1) == other["labels"]
                    met &= right
                    evaded |= both & right & (numpy_of(made.models[name])(other[key]).argmax(1) != other["labels"])
        np.testing.assert_array_equal(saved["checkpoint/robust"], met)
        assert said.findings.checkpoint.loss == Loss.of(met, saved["robust"])
        if name == "model.int8.onnx":
            assert said.findings.evasion.rate == Rate.of(evaded[both])
        assert said.decision in ("robust", "not robust", "inconclusive")
        assert str(said.robust) in "; ".join(said.reasons)
        assert Verdict.from_dict(said.to_dict()) == said


def without_time(verdict: Verdict) -> Verdict:
    rows = tuple(dataclasses.replace(row, seconds=0) for row in verdict.findings.attacks)
    return dataclasses.replace(verdict, findings=dataclasses.replace(verdict.findings, attacks=rows))


def test_order_does_not_matter_and_a_second_time_changes_nothing(files, tmp_path):
    made, before, after = files
    again = Files(tmp_path, gates=Gates(min_robust=0.3))
    for name in reversed(NAMES):
        assert without_time(again.replayed(name)).findings.robust == after[name].findings.robust
    for name in NAMES:
        twice = cross_replay(
            after[name],
            made.arrays[name],
            numpy_of(made.models[name]),
            {other: path for other, path in made.arrays.items() if other != name},
        )
        assert without_time(twice) == without_time(after[name])
        kept = loaded(made.arrays[name])
        assert set(before[name]) <= set(kept)
        for key in before[name]:
            if "points/" in key or key in ("images", "labels", "clean", "sweep/places"):
                np.testing.assert_array_equal(kept[key], before[name][key])


def test_what_cannot_be_replayed_is_one_sentence(files, tmp_path):
    made, _, after = files
    name, other = "model.onnx", {"model.engine": made.arrays["model.engine"]}
    with pytest.raises(InputError, match="it is another file, or another runtime"):
        cross_replay(after[name], made.arrays[name], numpy_of(Linear(1.0)), other)
    with pytest.raises(InputError, match="holds the arrays of a verdict, it does not"):
        cross_replay(after[name], tmp_path / "missing.npz", numpy_of(made.models[name]), other)
    arrays = loaded(made.arrays["model.engine"])
    arrays["images/sha256"] = np.array("0" * 64)
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(InputError, match="of the same images"):
        cross_replay(
            after[name], made.arrays[name], numpy_of(made.models[name]), {"model.engine": tmp_path / "other.npz"}
        )
    arrays = loaded(made.arrays["model.engine"])
    key = next(key for key in arrays if key.startswith("points/"))
    arrays[key] = arrays[key] + np.float32(0.1)
    np.savez(tmp_path / "far.npz", **arrays)
    with pytest.raises(UncheckedError, match=r"far.npz.* must be in the ball"):
        cross_replay(
            after[name], made.arrays[name], numpy_of(made.models[name]), {"model.engine": tmp_path / "far.npz"}
        )


def test_points_made_on_the_parent_are_taken_from_another_file_of_it(files, tmp_path):
    """In place of a headline on the parent; the verdict is the one that it would have given."""
    made, before, _ = files
    model, saved = made.models["model.int8.onnx"], before["model.int8.onnx"]
    source = tmp_path / "parent.npz"
    subject = Subject(numpy_of(made.parent), made.parent)
    verify(subject, saved["images"], saved["labels"], THREAT, level=LEVEL, arrays=source)
    subject = Subject(numpy_of(model), model, parent=made.parent)
    said = verify(subject, saved["images"], saved["labels"], THREAT, level=LEVEL, transferred=source)
    assert said.robust == made.verdicts["model.int8.onnx"].robust
    rows = {row.name: row for row in said.findings.attacks if row.source == "checkpoint"}
    assert {"apgd-ce (transferred)", "apgd-t (transferred)", "square (transferred)"} <= set(rows)
    assert all(row.forwards == row.backwards == 0 for row in rows.values())
    assert said.findings.checkpoint.robust == made.verdicts["model.int8.onnx"].findings.checkpoint.robust
    images = saved["images"] + np.float32(0.01)
    with pytest.raises(InputError, match="transferred between the same images"):
        verify(subject, images, saved["labels"], THREAT, level=LEVEL, transferred=source)


def test_many_points_of_another_file_that_count_are_a_flag(files):
    """What the file's own attacks left, and another file's points take, its own attacks should have found."""
    made, _, _ = files
    saved = loaded(made.arrays["model.engine"])
    fooled = saved["points/artefact/square"]

    def predict(images: np.ndarray) -> np.ndarray:
        logits = numpy_of(made.parent)(images)
        apart = np.abs(images[:, None] - fooled[None]).reshape(len(images), N, -1).max(axis=2).min(axis=1)
        clean = np.abs(images[:, None] - saved["images"][None]).reshape(len(images), N, -1).max(axis=2).min(axis=1)
        logits[(apart < 1e-6) & (clean > 1e-6)] *= -1
        return logits

    said = cross_replay(
        made.verdicts["model.onnx"],
        made.arrays["model.onnx"],
        predict,
        {"model.engine": made.arrays["model.engine"]},
    )
    assert said.decision in ("inconclusive", "not robust")
    assert any(flag.startswith("what fooled model.engine beats all attacks of its own") for flag in said.flags)
