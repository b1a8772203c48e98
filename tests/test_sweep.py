"""The sweep over epsilon is the exact curve where that is known, says how it was made, and hides no rise."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from rcnas_edge import examination, masking
from rcnas_edge.attacks import Threat
from rcnas_edge.evaluate import Rate
from rcnas_edge.sweep import CLEAN, SHARES, VERDICT, sweep
from rcnas_edge.verdict import Verdict
from rcnas_edge.verify import LEVELS, Level, Subject, verify

N = 150
THREAT = Threat.parse("linf:0.03:5")
QUICK = Level(
    images=N, seeds=1, square_queries=10, artefact_queries=10, margin=0.05, sweep_images=N, sweep_steps=20
)  # fmt: skip


class Linear(nn.Module):
    """Two logits W x: right in the whole ball of epsilon iff the margin exceeds epsilon ||w_0 - w_1||_1."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(16, 2, bias=False)
        self.dense.weight.data = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.dense((images - 0.5).flatten(1))


@pytest.fixture(scope="module")
def case() -> tuple[Linear, np.ndarray, np.ndarray]:
    """Images so far from the box that no ball of the sweep meets it; a tenth of the labels wrong."""
    model, draw = Linear().eval(), np.random.default_rng(1)
    images = draw.uniform(0.2, 0.8, (N, 1, 4, 4)).astype(np.float32)
    labels = predict(model, images).argmax(1)
    labels[:15] = 1 - labels[:15]
    return model, images, labels.astype(np.int64)


def predict(model: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(images)).numpy()


def exactly_right(model: Linear, images: np.ndarray, labels: np.ndarray, epsilon: float) -> np.ndarray:
    weight = model.dense.weight.detach().double().numpy()
    apart = weight[labels] - weight[1 - labels]
    margin = ((images.reshape(len(images), -1).astype(np.float64) - 0.5) * apart).sum(axis=1)
    return margin > epsilon * np.abs(apart).sum(axis=1)


@pytest.fixture(scope="module")
def swept(case, tmp_path_factory) -> tuple[Verdict, dict[str, np.ndarray]]:
    model, images, labels = case
    arrays = tmp_path_factory.mktemp("sweep") / "verdict.npz"
    said = verify(
        Subject(lambda points: predict(model, points), model), images, labels, THREAT, level=QUICK, arrays=arrays
    )
    with np.load(arrays, allow_pickle=False) as saved:
        return said, dict(saved)


def test_the_curve_is_the_exact_one_of_a_linear_network(case, swept):
    model, images, labels = case
    curve = swept[0].findings.eps_sweep
    epsilons = [0.0, *(share * 0.03 for share in (0.25, 0.5, 0.75, 1, 1.5, 2))]
    assert [point.epsilon for point in curve] == pytest.approx(epsilons)
    exact = [Rate.of(exactly_right(model, images, labels, epsilon)) for epsilon in epsilons]
    assert [point.robust for point in curve] == exact
    values = [rate.value for rate in exact]
    assert values[0] == 0.9
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.4, "the curve has somewhere to fall"


def test_every_point_says_how_it_was_found(swept):
    said, _ = swept
    told = {round(point.epsilon / 0.03, 2): point for point in said.findings.eps_sweep}
    assert told[0].attack == CLEAN
    assert told[0].robust == said.clean
    assert told[1].attack == VERDICT
    assert told[1].robust == said.robust
    assert {told[share].attack for share in SHARES} == {"apgd-ce, 20 steps"}
    assert any("at other epsilons one weak attack" in text for text in said.not_checked)


def test_anyone_can_recompute_the_curve_from_the_arrays(case, swept):
    model, images, labels = case
    said, saved = swept
    places = saved["sweep/places"]
    for point in said.findings.eps_sweep:
        if point.attack in (CLEAN, VERDICT):
            continue
        moved = saved[f"sweep/points/{point.epsilon:.6g}"]
        assert np.abs(moved - images[places]).max() <= point.epsilon + 1e-6
        assert np.abs(moved - images[places]).max() > 0.99 * point.epsilon, "the whole ball is used"
        right = saved["clean"][places] & (predict(model, moved).argmax(1) == labels[places])
        np.testing.assert_array_equal(right, saved[f"sweep/right/{point.epsilon:.6g}"])
        assert Rate.of(right) == point.robust


def test_a_verdict_with_and_without_a_sweep_is_json_there_and_back(swept):
    values = json.loads(json.dumps(swept[0].to_dict(), allow_nan=False))
    assert values["eps_sweep"][0] == {"epsilon": 0.0, "attack": CLEAN, "robust": Rate(135, 150).to_dict()}
    assert Verdict.from_dict(values) == swept[0]
    del values["eps_sweep"]  # a verdict that was written before there were sweeps
    assert Verdict.from_dict(values).findings.eps_sweep == ()


def test_the_artefact_is_judged_not_its_twin(case):
    """An artefact that is wrong wherever a pixel was moved has a curve of zeros, whatever its twin says."""
    model, images, labels = case

    def fragile(points: np.ndarray) -> np.ndarray:
        moved = np.abs(points - images).reshape(len(points), -1).max(axis=1) > 1e-4
        logits = predict(model, points)
        logits[moved] = -logits[moved]
        return logits

    clean = predict(model, images).argmax(1) == labels
    found = sweep(
        model, fragile, images, labels, clean, THREAT, count=N, steps=5, seed=0, progress=lambda share: None
    )  # fmt: skip
    smallest = found.right[min(found.right)]
    faithful = exactly_right(model, images, labels, min(found.right))
    assert faithful.sum() > 100
    assert not (
        smallest & faithful & (np.abs(found.points[min(found.right)] - images).max(axis=(1, 2, 3)) > 1e-4)
    ).any()


def test_part_of_the_images_is_drawn_by_the_seed_and_not_from_the_front(case):
    model, images, labels = case
    clean = predict(model, images).argmax(1) == labels

    def places(seed: int) -> np.ndarray:
        return sweep(
            model, lambda points: predict(model, points), images, labels, clean, Threat.parse("linf:0.6:5"),
            count=20, steps=2, seed=seed, progress=lambda share: None,
        ).places  # fmt: skip

    first = places(0)
    assert len(set(first)) == 20
    assert first.max() > 75
    np.testing.assert_array_equal(first, places(0))
    assert list(first) != list(places(1))


def test_balls_of_one_and_more_are_left_out(case):
    model, images, labels = case
    clean = predict(model, images).argmax(1) == labels
    found = sweep(
        model, lambda points: predict(model, points), images, labels, clean, Threat.parse("linf:0.6:5"),
        count=10, steps=2, seed=0, progress=lambda share: None,
    )  # fmt: skip
    assert list(found.right) == pytest.approx([0.15, 0.3, 0.45, 0.9])


def test_without_gradients_or_without_a_twin_there_is_no_curve(case):
    model, images, labels = case

    class Rounding(Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.round(images * 255) / 255)

    blind = Rounding().eval()
    blind.load_state_dict(model.state_dict())
    for twin in (blind, None):
        said = verify(Subject(lambda points: predict(blind, points), twin), images, labels, THREAT, level=QUICK)
        assert said.findings.eps_sweep == ()
        assert any("sweeps over epsilon" in text for text in said.not_checked)


def test_a_curve_that_rises_is_a_flag_and_one_that_wavers_is_not():
    assert masking.rising_flag({0.1: 90, 0.2: 60, 0.3: 20}, 100) is None
    assert masking.rising_flag({0.1: 60, 0.2: 63}, 100) is None, "3 points may be chance"
    assert masking.rising_flag({0.1: 10, 0.2: 12}, 20) is None, "two images are no sign"
    assert masking.rising_flag({}, 100) is None
    flag = masking.rising_flag({0.3: 66, 0.1: 70, 0.2: 60}, 100)
    assert flag is not None
    assert "60 are right at epsilon 0.2 and 66 at the larger 0.3" in flag


def test_a_curve_that_rises_makes_the_verdict_inconclusive(case, monkeypatch):
    model, images, labels = case

    def rising(*args, **kwargs):
        found = sweep(*args, **kwargs)
        last = max(found.right)
        return dataclasses.replace(found, right={**found.right, last: np.ones(len(found.places), dtype=bool)})

    monkeypatch.setattr(examination, "sweep", rising)
    said = verify(Subject(lambda points: predict(model, points), model), images, labels, THREAT, level=QUICK)
    assert said.decision == "inconclusive"
    assert any(flag.startswith("not monotone in epsilon") for flag in said.flags)


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_a_level_sweeps_part_of_its_images_with_at_most_a_tenth_of_the_work(level):
    """Gradients of the sweep against those of APGD-CE and APGD-T when half of the images stay right to the end."""
    assert 0 < level.sweep_images <= level.images
    headline = level.images * 100 * (1 + 9 * 0.5)
    assert len(SHARES) * level.sweep_images * level.sweep_steps <= 0.1 * headline
