"""Differential evasion finds what a linear programme proves to be there, and nothing else; its rate is reported."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from verify_doubles import Linear, numpy_of

from rcnas_edge.attacks import Threat
from rcnas_edge.evaluate import Rate
from rcnas_edge.verdict import Loss, Verdict
from rcnas_edge.verify import Level, Subject, verify
from rcnas_edge.verify.evasion import evade

N, CLASSES = 60, 4
THREAT = Threat.parse("linf:0.03:5")


@pytest.fixture(scope="module")
def case():
    parent, file = Linear().eval(), Linear(noise=0.15).eval()
    images = np.random.default_rng(0).uniform(0.2, 0.8, (N, 1, 4, 4)).astype(np.float32)
    labels = numpy_of(parent)(images).argmax(1)
    both = numpy_of(file)(images).argmax(1) == labels
    assert 40 < both.sum() < N
    return parent, file, images, labels, both


def evadable(parent: Linear, file: Linear, image: np.ndarray, label: int) -> bool:
    """Whether any point of the ball is right for the parent and wrong for the file: one linear programme per class.

    Maximise t, so that every margin of the parent and the one of another class in the file are at least t.
    """
    ours, theirs = (model.weight.detach().double().numpy() for model in (parent, file))
    centre = image.ravel().astype(np.float64) - 0.5
    others = [one for one in range(CLASSES) if one != label]
    best = -np.inf
    for wrong in others:
        rows = [ours[label] - ours[one] for one in others] + [theirs[wrong] - theirs[label]]
        limit = linprog(
            [0.0] * 16 + [-1.0],
            A_ub=[[*-row, 1.0] for row in rows],
            b_ub=[row @ centre for row in rows],
            bounds=[(-THREAT.epsilon, THREAT.epsilon)] * 16 + [(None, None)],
        )
        best = max(best, -limit.fun)
    return bool(best > 1e-4)


@pytest.fixture(scope="module")
def proven(case) -> np.ndarray:
    parent, file, images, labels, both = case
    return np.array([both[at] and evadable(parent, file, images[at], int(labels[at])) for at in range(N)])


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_it_finds_what_a_linear_programme_proves_to_be_there(case, proven, scale):
    """Also where both networks are so sure that their probabilities have no gradient."""
    _, _, images, labels, both = case
    parent, file = Linear(scale=scale), Linear(noise=0.15, scale=scale)
    x, y = torch.from_numpy(images[both]), torch.from_numpy(labels[both])
    found = evade(file, parent, x, y, THREAT, steps=40)
    points = found.adversarial.numpy()
    assert np.abs(points - images[both]).max() <= THREAT.epsilon + 1e-6
    right, wrong = numpy_of(parent)(points).argmax(1) == labels[both], numpy_of(file)(points).argmax(1) != labels[both]
    evaded = right & wrong
    np.testing.assert_array_equal(evaded, ~found.robust.numpy())
    assert not (evaded & ~proven[both]).any(), "what it finds is there"
    assert 5 < proven.sum() < both.sum(), "some are there and some are not"
    assert evaded.sum() >= 0.8 * proven.sum(), f"{evaded.sum()} of {proven.sum()}"
    rounds = 2 * (1 + found.robust.numpy())  # a last look without a gradient, by both networks, in each round
    assert found.forwards - found.backwards <= rounds.sum()
    assert found.backwards > 0


def test_a_verdict_tells_its_rate_beside_equal_robust_accuracies(case, proven, tmp_path):
    parent, file, images, labels, both = case
    level = Level(images=N, seeds=1, square_queries=10, artefact_queries=20, margin=0.5, evasion_steps=40)
    said = verify(
        Subject(numpy_of(file), file, parent=parent), images, labels, THREAT, level=level, arrays=tmp_path / "a.npz"
    )
    evasion = said.findings.evasion
    assert evasion.rate.total == both.sum()
    assert 0.8 * proven.sum() <= evasion.rate.hits <= proven.sum()
    assert "DIVA, two rounds of 40 steps" in evasion.attack
    assert f"evaded {evasion.rate}" in said.summary()
    assert not any("differential evasion" in text for text in said.not_checked)
    assert Verdict.from_dict(said.to_dict()) == said
    with np.load(tmp_path / "a.npz") as saved:
        assert Rate.of(saved["evaded"][both]) == evasion.rate
        assert said.findings.checkpoint.loss == Loss.of(saved["checkpoint/robust"], saved["robust"])
    assert {row.source for row in said.findings.attacks} == {"checkpoint", "re-import", "artefact"}


def test_without_another_parent_nothing_is_said_of_evasion(case):
    parent, _, images, labels, _ = case
    level = Level(images=N, seeds=1, square_queries=10, artefact_queries=20, margin=0.5)
    for given in (None, parent):
        said = verify(Subject(numpy_of(parent), parent, parent=given), images, labels, THREAT, level=level)
        assert said.findings.evasion is None
        assert {row.source for row in said.findings.attacks} == {"checkpoint", "artefact"}
        assert any("differential evasion" in text for text in said.not_checked)
