"""Points lie on disk when their attack is done; a verification that was killed goes on, to the same verdict."""

from __future__ import annotations

import dataclasses
import zipfile

import numpy as np
import pytest
import torch
from verify_doubles import Linear, numpy_of

from rcnas_edge.attacks import Threat, headline
from rcnas_edge.errors import InputError, UncheckedError
from rcnas_edge.verify import Level, Subject, Verdict, examination, making, verify, witness
from rcnas_edge.verify.keeping import Spent, keeping, streamed

N = 70
THREAT = Threat.parse("linf:0.03:5")
LEVEL = Level(
    images=N, seeds=2, square_queries=10, artefact_queries=20, margin=0.3, sweep_images=20, sweep_steps=5,
    step_images=20,
)  # fmt: skip


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(0).uniform(0.2, 0.8, (N, 1, 4, 4)).astype(np.float32)
    return images, numpy_of(Linear(classes=5))(images).argmax(1)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """How strong the attacks are is not looked at."""
    monkeypatch.setattr(examination, "STEPS", 20)


def subject() -> Subject:
    file = Linear(0.1, classes=5)
    return Subject(numpy_of(file), file, Linear(0.3, classes=5), Linear(classes=5))


def without_time(said: Verdict) -> Verdict:
    rows = tuple(dataclasses.replace(row, seconds=0) for row in said.findings.attacks)
    return dataclasses.replace(said, seconds=0, findings=dataclasses.replace(said.findings, attacks=rows))


class Killed(BaseException):
    """What a kill looks like from inside."""


class Attacks:
    """Counts the attacks that are run, and is killed at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, dies_at: int = 10**6) -> None:
        self.names: list[str] = []
        for name in ("attack", "evade", "square"):
            monkeypatch.setattr(making, name, self._counted(name, getattr(making, name), dies_at))

    def _counted(self, kind, run, dies_at):
        def counted(*args, **kwargs):
            self.names.append(args[0] if kind == "attack" else kind)
            if len(self.names) == dies_at:
                raise Killed
            return run(*args, **kwargs)

        return counted


@pytest.mark.parametrize("dies_at", [1, 5, 12, 16])
def test_a_killed_verification_goes_on_where_it_was(data, tmp_path, monkeypatch, few_steps, dies_at):
    whole, resumed = tmp_path / "whole.npz", tmp_path / "resumed.npz"
    with monkeypatch.context() as patched:
        all_of_them = Attacks(patched)
        expected = verify(subject(), *data, THREAT, level=LEVEL, sha256="a" * 64, arrays=whole)
    assert len(all_of_them.names) > 20
    with monkeypatch.context() as patched:
        Attacks(patched, dies_at=dies_at)
        with pytest.raises(Killed):
            verify(subject(), *data, THREAT, level=LEVEL, sha256="a" * 64, arrays=resumed)
    assert not resumed.exists()
    with monkeypatch.context() as patched:
        rest = Attacks(patched)
        said = verify(subject(), *data, THREAT, level=LEVEL, sha256="a" * 64, arrays=resumed)
    assert rest.names == all_of_them.names[dies_at - 1 :]
    assert without_time(said) == without_time(expected)
    with np.load(whole) as first, np.load(resumed) as second:
        assert first.files == second.files
        for key in first.files:
            np.testing.assert_array_equal(first[key], second[key])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed.npz", "whole.npz"]


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "b" * 64}, {"sha256": ""}, {"seed": 1}, {"resume": False}, {"threat": Threat.parse("linf:0.04:5")},
        {"level": dataclasses.replace(LEVEL, square_queries=11)}, {"parent": Linear(0.01, classes=5)}, {"images": 0.01},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_points_of_other_terms_are_not_taken(data, tmp_path, monkeypatch, few_steps, change):
    images, labels = data
    given = {"threat": THREAT, "level": LEVEL, "sha256": "a" * 64, "seed": 0}
    with monkeypatch.context() as patched:
        Attacks(patched, dies_at=6)
        with pytest.raises(Killed):
            verify(subject(), images, labels, **given, arrays=tmp_path / "a.npz")
    what = dict(change)
    who = dataclasses.replace(subject(), parent=what.pop("parent")) if "parent" in what else subject()
    images = images - np.float32(what.pop("images", 0))
    with monkeypatch.context() as patched:
        again = Attacks(patched)
        verify(who, images, labels, **{**given, **what}, arrays=tmp_path / "a.npz")
    assert again.names[:4] == ["fgsm", "pgd", "apgd-ce", "apgd-t"]


def test_attack_by_attack_they_are_the_headline(data, tmp_path):
    """One attack at a time on the survivors is `headline`, point by point."""
    model = Linear(classes=5)
    images, labels = data
    level = dataclasses.replace(LEVEL, seeds=1)
    verify(Subject(numpy_of(model), model), images, labels, THREAT, level=level, arrays=tmp_path / "a.npz")
    expected = headline(
        model, torch.from_numpy(images), torch.from_numpy(labels), THREAT, square_queries=level.square_queries
    )
    with np.load(tmp_path / "a.npz") as saved:
        alive = np.ones(N, dtype=bool)
        for name, found in expected.items():
            points = saved[f"points/checkpoint/{name}"]
            np.testing.assert_array_equal(points[alive], found.adversarial.numpy()[alive])
            alive &= saved[f"right/checkpoint/{name}"]
            np.testing.assert_array_equal(alive, found.robust.numpy())


def test_images_that_memory_does_not_hold_at_once_are_attacked_in_pieces(data, tmp_path, monkeypatch):
    """Points change with the pieces' noise, what they are does not; no attack sees more than a piece."""
    monkeypatch.setattr(witness, "PIECE", 16 * data[0][0].nbytes)
    monkeypatch.setattr(witness, "BATCH", 16)
    sizes, run = [], making.attack

    def attack(name, model, images, *rest, **options):
        sizes.append(len(images))
        return run(name, model, images, *rest, **options)

    monkeypatch.setattr(making, "attack", attack)
    said = verify(subject(), *data, THREAT, level=LEVEL, arrays=tmp_path / "a.npz")
    assert max(sizes) <= 16
    assert sizes[:5] == [14] * 5, "70 images in five pieces of one size"
    monkeypatch.undo()
    at_once = verify(subject(), *data, THREAT, level=LEVEL)
    assert abs(said.robust.hits - at_once.robust.hits) <= 2


def test_memory_that_ran_out_is_one_sentence(data, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(making, "attack", full)
    with pytest.raises(UncheckedError, match="run them with --device cpu"):
        verify(subject(), *data, THREAT, level=LEVEL)

    def broken(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(making, "attack", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        verify(subject(), *data, THREAT, level=LEVEL)


def test_an_array_is_made_once_and_read_back_in_parts(tmp_path):
    calls = []

    def fill(points: np.ndarray) -> Spent:
        calls.append(points.shape)
        points[:] = np.arange(points.size).reshape(points.shape)
        return Spent(3, 2, 1.0)

    path = tmp_path / "verdict.npz"
    for _ in range(2):
        with keeping(path, {"seed": 0}) as kept:
            points, spent = kept.made("points/re-import, naive/pgd (seed 1)", (10, 1, 2, 3), fill)
    assert calls == [(10, 1, 2, 3)]
    assert (spent, Spent() + spent) == (Spent(3, 2, 1.0),) * 2
    kept.pack(path, {"clean": np.ones(10, dtype=bool)})
    with np.load(path) as saved:
        assert saved.files == ["clean", "points/re-import, naive/pgd (seed 1)"]
        np.testing.assert_array_equal(saved["points/re-import, naive/pgd (seed 1)"], points)
    with zipfile.ZipFile(path) as packed:
        parts = list(streamed(packed, "points/re-import, naive/pgd (seed 1)", 4))
        assert [len(part) for part in parts] == [4, 4, 2]
        np.testing.assert_array_equal(np.concatenate(parts), points)
    np.savez(path, by_column=np.asfortranarray(np.ones((3, 4))))
    with zipfile.ZipFile(path) as packed, pytest.raises(InputError, match="row by row"):
        next(streamed(packed, "by_column", 2))
    assert [found.name for found in tmp_path.iterdir()] == ["verdict.npz"]


def test_an_error_at_the_door_leaves_no_folder(data, tmp_path):
    images, labels = data
    with pytest.raises(InputError, match="labels are classes"):
        verify(subject(), images, labels + 5, THREAT, level=LEVEL, sha256="a" * 64, arrays=tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []
