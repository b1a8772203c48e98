"""The sweep over epsilon is the exact curve where that is known, says how it was made, and hides no rise."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from rcnas_edge.attacks import Threat
from rcnas_edge.evaluate import Rate
from rcnas_edge.verdict import Verdict
from rcnas_edge.verify import LEVELS, Level, Subject, examination, masking, verify
from rcnas_edge.verify.sweep import CLEAN, LADDER, SHARES, VERDICT, Sweep, drawn_places, over_epsilon

N = 150
THREAT = Threat.parse("linf:0.03:5")
QUICK = Level(
    images=N, seeds=1, square_queries=10, artefact_queries=10, margin=0.05, sweep_images=N, sweep_steps=20,
    step_images=60,
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
    assert values["step_sweep"][0]["steps"] == 5
    del values["eps_sweep"], values["step_sweep"]  # a verdict that was written before there were sweeps
    assert Verdict.from_dict(values).findings.eps_sweep == Verdict.from_dict(values).findings.step_sweep == ()


def test_the_curve_over_steps_falls_to_what_the_ball_holds(case, swept):
    """More steps find more, never less on a linear network, and 100 find what there is."""
    model, images, labels = case
    said, saved = swept
    curve, places = said.findings.step_sweep, saved["steps/places"]
    assert [point.steps for point in curve] == list(LADDER)
    assert {point.attack for point in curve} == {"apgd-ce"}
    hits = [point.robust.hits for point in curve]
    assert hits == sorted(hits, reverse=True)
    assert curve[-1].robust == Rate.of(exactly_right(model, images, labels, 0.03)[places])
    for point in curve:
        moved = saved[f"steps/points/{point.steps}"]
        assert np.abs(moved - images[places]).max() <= 0.03 + 1e-6
        right = saved["clean"][places] & (predict(model, moved).argmax(1) == labels[places])
        np.testing.assert_array_equal(right, saved[f"steps/right/{point.steps}"])
        assert Rate.of(right) == point.robust


def test_the_artefact_is_judged_not_its_twin(case, tmp_path):
    """An artefact that is wrong wherever a pixel was moved has a curve of zeros, whatever its twin says."""
    model, images, labels = case

    def fragile(points: np.ndarray) -> np.ndarray:
        nearest = np.abs(points[:, None] - images[None]).reshape(len(points), N, -1).max(axis=2).min(axis=1)
        logits = predict(model, points)
        logits[nearest > 1e-4] *= -1
        return logits

    said = verify(Subject(fragile, model), images, labels, THREAT, level=QUICK, arrays=tmp_path / "fragile.npz")
    smallest = min(point.epsilon for point in said.findings.eps_sweep if point.epsilon)
    with np.load(tmp_path / "fragile.npz") as saved:
        right, moved = saved[f"sweep/right/{smallest:.6g}"], saved[f"sweep/points/{smallest:.6g}"]
    faithful = exactly_right(model, images, labels, smallest)
    assert faithful.sum() > 100
    assert not (right & faithful & (np.abs(moved - images).max(axis=(1, 2, 3)) > 1e-4)).any()
    assert said.decision == "inconclusive"


def test_part_of_the_images_is_drawn_by_the_seed_and_not_from_the_front():
    first = drawn_places(N, 20, 0)
    assert len(set(first)) == 20
    assert first.max() > 75
    np.testing.assert_array_equal(first, drawn_places(N, 20, 0))
    assert list(first) != list(drawn_places(N, 20, 1))
    np.testing.assert_array_equal(drawn_places(N, 2 * N, 0), np.arange(N))


def test_balls_of_one_and_more_are_left_out():
    tries = over_epsilon(Threat.parse("linf:0.6:5"), 2)
    assert [one.at for one in tries] == pytest.approx([0.15, 0.3, 0.45, 0.9])
    assert [one.ball.steps for one in tries] == [2] * 4


def test_without_gradients_or_without_a_twin_there_is_no_curve(case):
    model, images, labels = case

    class Rounding(Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.round(images * 255) / 255)

    blind = Rounding().eval()
    blind.load_state_dict(model.state_dict())
    for twin in (blind, None):
        said = verify(Subject(lambda points: predict(blind, points), twin), images, labels, THREAT, level=QUICK)
        assert said.findings.eps_sweep == said.findings.step_sweep == ()
        assert any("sweeps over epsilon and steps" in text for text in said.not_checked)


def test_a_curve_that_rises_is_a_flag_and_one_that_wavers_is_not():
    assert masking.rising_flag({0.1: 90, 0.2: 60, 0.3: 20}, 100) is None
    assert masking.rising_flag({0.1: 60, 0.2: 63}, 100) is None, "3 points may be chance"
    assert masking.rising_flag({0.1: 10, 0.2: 12}, 20) is None, "two images are no sign"
    assert masking.rising_flag({}, 100) is None
    flag = masking.rising_flag({0.3: 66, 0.1: 70, 0.2: 60}, 100)
    assert flag is not None
    assert "60 are right at epsilon 0.2 and 66 at the larger 0.3" in flag


def test_a_curve_over_steps_must_fall_and_come_to_rest():
    assert masking.rising_flag({5: 60, 10: 50, 20: 50}, 100, of="steps") is None
    flag = masking.rising_flag({5: 50, 10: 50, 100: 58}, 100, of="steps")
    assert flag is not None
    assert "not monotone in steps: of 100 images 50 are right after steps of 5 and 58 after 100" in flag
    assert masking.falling_flag({5: 90, 50: 60, 100: 57}, 100) is None, "3 points may be chance"
    assert masking.falling_flag({5: 20, 50: 18, 100: 16}, 20) is None, "two images are no sign"
    assert masking.falling_flag({5: 90}, 100) is None
    flag = masking.falling_flag({5: 90, 50: 60, 100: 50}, 100)
    assert flag is not None
    assert "60 are right after 50 steps and 50 after 100" in flag


@pytest.mark.parametrize(("curve", "words"), [("sweep", "not monotone in epsilon"), ("steps", "not monotone in steps")])
def test_a_curve_that_rises_makes_the_verdict_inconclusive(case, monkeypatch, curve, words):
    model, images, labels = case
    honest = Sweep.of

    def rising(name, *args, **kwargs):
        found = honest(name, *args, **kwargs)
        last = list(found.right)[-1]
        return dataclasses.replace(found, right={**found.right, last: np.ones(len(found.places), dtype=bool)})

    monkeypatch.setattr(
        examination.Sweep, "of", lambda name, *rest: rising(name, *rest) if name == curve else honest(name, *rest)
    )
    said = verify(Subject(lambda points: predict(model, points), model), images, labels, THREAT, level=QUICK)
    assert said.decision == "inconclusive"
    assert any(flag.startswith(words) for flag in said.flags)


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_a_level_sweeps_part_of_its_images_with_at_most_a_tenth_of_the_work(level):
    """Gradients of each sweep against those of APGD-CE and APGD-T when half of the images stay right to the end."""
    assert 0 < level.sweep_images <= level.images
    assert 0 < level.step_images <= level.images
    headline = level.images * 100 * (1 + 9 * 0.5)
    assert len(SHARES) * level.sweep_images * level.sweep_steps <= 0.1 * headline
    assert sum(LADDER) * level.step_images <= 0.1 * headline
