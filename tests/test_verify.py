"""A verdict is the exact robust accuracy where that is known, and never "robust" where the attacks could be misled."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from torch import nn
from verify_doubles import numpy_of

from rcnas_edge.attacks import AttackResult, Threat
from rcnas_edge.attacks.square import margins, square
from rcnas_edge.errors import InputError, UncheckedError
from rcnas_edge.evaluate import Rate
from rcnas_edge.export import exporter
from rcnas_edge.report.schema import VERDICT
from rcnas_edge.verdict import Comparison, Findings, Loss
from rcnas_edge.verify import LEVELS, Gates, Level, Subject, Verdict, making, masking, saved_flags, verify
from rcnas_edge.verify.decision import decide

IMAGE, CLASSES, N = (1, 4, 4), 5, 120
THREAT = Threat.parse("linf:0.02:5")
QUICK = Level(images=N, seeds=1, square_queries=20, artefact_queries=30, margin=0.05)


class Linear(nn.Module):
    """Logits W x + b: its exact robust accuracy is known."""

    def __init__(self, seed: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.dense = nn.Linear(16, CLASSES)
        self.dense.weight.data = scale * torch.randn(CLASSES, 16, generator=generator)
        self.dense.bias.data.zero_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.dense((images - 0.5).flatten(1))


class Rounding(Linear):
    """What quantisation looks like without a straight-through gradient: the gradient is zero everywhere."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.round(images * 255) / 255)


def examples(model: Linear, n: int = N, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Images away from the box, labelled by the model, a tenth of the labels wrong."""
    generator = np.random.default_rng(seed)
    images = generator.uniform(0.2, 0.8, (n, *IMAGE)).astype(np.float32)
    labels = numpy_of(model)(images).argmax(1)
    wrong = generator.random(n) < 0.1
    labels[wrong] = (labels[wrong] + 1) % CLASSES
    return images, labels.astype(np.int64)


def exactly_robust(model: Linear, images: np.ndarray, labels: np.ndarray, epsilon: float) -> np.ndarray:
    """A linear classifier is right in the whole ball iff every margin exceeds epsilon times its weights' L1 norm."""
    weight = model.dense.weight.detach().double().numpy()
    logits = (images.reshape(len(images), -1).astype(np.float64) - 0.5) @ weight.T
    apart = weight[labels][:, None] - weight[None]
    slack = logits[np.arange(len(labels)), labels][:, None] - logits - epsilon * np.abs(apart).sum(axis=2)
    slack[np.arange(len(labels)), labels] = np.inf
    return slack.min(axis=1) > 0


@pytest.fixture(scope="module")
def case():
    model = Linear().eval()
    images, labels = examples(model)
    return model, images, labels


@pytest.fixture(scope="module")
def verdict(case, tmp_path_factory):
    model, images, labels = case
    arrays = tmp_path_factory.mktemp("verdict") / "verdict.npz"
    said = verify(Subject(numpy_of(model), model), images, labels, THREAT, level=QUICK, sha256="ab" * 32, arrays=arrays)
    return said, arrays


# A trustworthy artefact


def test_robust_accuracy_is_the_exact_one_of_a_linear_network(case, verdict):
    model, images, labels = case
    exact = exactly_robust(model, images, labels, THREAT.epsilon)
    assert 0.3 < exact.mean() < 0.8
    assert verdict[0].robust == Rate.of(exact)
    np.testing.assert_array_equal(saved_flags(verdict[1])[1], exact)
    assert verdict[0].clean == Rate.of(numpy_of(model)(images).argmax(1) == labels)


def test_a_faithful_artefact_is_robust(verdict):
    said, _ = verdict
    assert (said.decision, said.exit_code, said.flags) == ("robust", 0, ())
    assert said.findings.parity == Rate(2 * N, 2 * N)
    assert said.findings.checkpoint.loss.value == 0
    assert "no gate was asked" in said.reasons[0]
    assert [(row.name, row.source) for row in said.findings.attacks] == [
        ("fgsm", "checkpoint"),
        ("pgd", "checkpoint"),
        ("apgd-ce", "checkpoint"),
        ("apgd-t", "checkpoint"),
        ("square", "checkpoint"),
        ("square", "artefact"),
    ]
    hits = [row.robust.hits for row in said.findings.attacks]
    assert hits == sorted(hits, reverse=True)
    assert hits[-1] == said.robust.hits
    assert any("in another format or precision" in text for text in said.not_checked)
    assert any("a re-import of the exported graph" in text for text in said.not_checked)
    assert any("no reference was given" in text for text in said.not_checked)


def test_anyone_can_recompute_the_verdict_from_the_arrays(case, verdict):
    model, images, labels = case
    said, path = verdict
    with np.load(path, allow_pickle=False) as saved:
        arrays = dict(saved)
    np.testing.assert_array_equal(arrays["images"], images[arrays["indices"]])
    robust = numpy_of(model)(arrays["images"]).argmax(1) == arrays["labels"]
    np.testing.assert_array_equal(robust, arrays["clean"])
    points = [key for key in arrays if key.startswith("points/")]
    assert len(points) == len(said.findings.attacks)
    for key in points:
        assert arrays[key].dtype == np.float32
        assert np.abs(arrays[key] - images).max() <= THREAT.epsilon + 1e-6
        assert arrays[key].min() >= 0
        assert arrays[key].max() <= 1
        right = numpy_of(model)(arrays[key]).argmax(1) == labels
        np.testing.assert_array_equal(right, arrays[key.replace("points/", "right/")])
        robust &= right
    np.testing.assert_array_equal(robust, arrays["robust"])
    assert Rate.of(robust) == said.robust


def test_a_verdict_is_json_there_and_back_and_fits_the_report(verdict):
    values = json.loads(json.dumps(verdict[0].to_dict(), allow_nan=False))
    assert Verdict.from_dict(values) == verdict[0]
    notes: list[str] = []
    VERDICT.read(values, "verdict", notes)
    assert notes == []
    with pytest.raises(InputError, match="fields that Verdict"):
        Verdict.from_dict({key: value for key, value in values.items() if key != "drift"})
    with pytest.raises(InputError, match="never 'robust' with a flag"):
        Verdict.from_dict({**values, "flags": ["FGSM beats PGD"]})


def test_the_same_seed_gives_the_same_verdict_and_leaves_no_trace(case, verdict):
    model, images, labels = case
    model.train()
    state = torch.get_rng_state()
    progress: list[float] = []
    again = verify(
        Subject(numpy_of(model), model), torch.from_numpy(images), torch.from_numpy(labels), THREAT, level=QUICK,
        sha256="ab" * 32, progress=lambda text, share: progress.append(share),
    )  # fmt: skip
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.eval()

    def without_time(said: Verdict) -> Verdict:
        rows = tuple(dataclasses.replace(row, seconds=0) for row in said.findings.attacks)
        return dataclasses.replace(said, seconds=0, findings=dataclasses.replace(said.findings, attacks=rows))

    assert without_time(again) == without_time(verdict[0])
    assert progress == sorted(progress)
    assert progress[-1] == 1


def test_an_exported_file_is_verified(tmp_path):
    model = Linear()
    images, labels = examples(model, n=70)
    artefact = exporter("onnx").export(model, tmp_path / "model.onnx", image=IMAGE, metadata={})
    said = verify(
        Subject(exporter("onnx").predict(artefact), model), images, labels, THREAT, level=QUICK, sha256=artefact.sha256
    )
    assert said.decision == "robust"
    assert said.robust == Rate.of(exactly_robust(model, images, labels, THREAT.epsilon))
    assert f"{N} images, as the level asks: there were 70" in said.not_checked


def test_more_seeds_attack_what_the_first_one_left(case):
    model, images, labels = case
    said = verify(Subject(numpy_of(model), model), images, labels, THREAT, level=dataclasses.replace(QUICK, seeds=2))
    rows = {row.name: row for row in said.findings.attacks if row.source == "checkpoint"}
    assert list(rows)[-3:] == ["apgd-ce (seed 1)", "apgd-t (seed 1)", "square (seed 1)"]
    assert rows["apgd-ce (seed 1)"].backwards < rows["apgd-ce"].backwards
    assert said.robust == Rate.of(exactly_robust(model, images, labels, THREAT.epsilon))


# Artefacts that are not what they seem


def test_other_weights_than_the_checkpoint_are_named_and_inconclusive(case):
    model, images, labels = case
    other = Linear(seed=7)
    said = verify(Subject(numpy_of(model), other), images, labels, THREAT, level=QUICK)
    assert (said.decision, said.exit_code) == ("inconclusive", 5)
    assert any("parity failed, so the attacked network is not the artefact" in reason for reason in said.reasons)
    assert said.findings.parity.value < 0.9


def test_classes_in_another_order_are_named(case):
    model, images, labels = case
    order = [1, 0, *range(2, CLASSES)]
    said = verify(Subject(lambda batch: numpy_of(model)(batch)[:, order], model), images, labels, THREAT, level=QUICK)
    assert said.decision == "inconclusive"
    assert any("its classes stand in another order" in reason for reason in said.reasons)


def test_a_drift_that_moves_no_clean_class_is_still_no_parity(case):
    model, images, labels = case
    said = verify(Subject(lambda batch: 1.01 * numpy_of(model)(batch), model), images, labels, THREAT, level=QUICK)
    assert said.findings.parity.value == 1
    assert said.decision == "inconclusive"
    assert said.findings.drift["clean_max"] == pytest.approx(0.01, rel=1e-3)


def test_an_answer_that_depends_on_the_batch_is_flagged(case):
    model, images, labels = case

    def predict(batch: np.ndarray) -> np.ndarray:
        return numpy_of(model)(batch) * (0.9 if len(batch) == 5 else 1.0)

    said = verify(Subject(predict, model), images, labels, THREAT, level=QUICK)
    assert said.decision == "inconclusive"
    assert any("differs between batch sizes: a batch of 5" in flag for flag in said.flags)


def test_random_answers_are_flagged(case):
    model, images, labels = case
    generator = np.random.default_rng(0)

    def predict(batch: np.ndarray) -> np.ndarray:
        return (numpy_of(model)(batch) + generator.normal(0, 0.01, (len(batch), CLASSES))).astype(np.float32)

    said = verify(Subject(predict, model), images, labels, THREAT, level=QUICK)
    assert said.decision == "inconclusive"
    assert any("differs between runs" in flag for flag in said.flags)


def test_without_a_differentiable_twin_it_is_never_robust(case):
    model, images, labels = case
    said = verify(Subject(numpy_of(model)), images, labels, THREAT, level=QUICK, gates=Gates(min_robust=0.1))
    assert (said.decision, said.exit_code) == ("inconclusive", 5)
    assert said.findings.parity is None
    assert [row.source for row in said.findings.attacks] == ["artefact"]
    exact = exactly_robust(model, images, labels, THREAT.epsilon).mean()
    assert exact <= said.robust.value < said.clean.value


def test_a_network_without_gradients_is_flagged_and_fooled_all_the_same(case):
    images, labels = case[1:]
    model = Rounding()
    said = verify(Subject(numpy_of(model), model), images, labels, THREAT, level=QUICK)
    assert said.decision == "inconclusive"
    assert any(flag.startswith(f"zero gradients: {N} of {N}") for flag in said.flags)
    assert any(flag.startswith("Square on the artefact beats white-box") for flag in said.flags)
    assert said.robust.value < said.clean.value - 0.1


def test_a_saturated_softmax_is_no_flag_and_no_shelter(case):
    images, labels = case[1:]
    model = Linear(scale=1000.0)
    said = verify(Subject(numpy_of(model), model), images, labels, THREAT, level=QUICK)
    assert said.flags == ()
    assert said.robust == Rate.of(exactly_robust(model, images, labels, THREAT.epsilon))


# Gates and references


def test_a_failed_gate_is_not_robust_whatever_else_is_wrong(case):
    model, images, labels = case
    said = verify(Subject(numpy_of(model), Linear(seed=7)), images, labels, THREAT, level=QUICK, gates=Gates(0.99))
    assert (said.decision, said.exit_code) == ("not robust", 4)
    assert "below the 99 % asked for" in said.reasons[0]
    assert any("parity failed" in reason for reason in said.reasons)


def test_a_reference_is_attacked_alike_and_compared_in_pairs(case):
    model, images, labels = case
    better = Linear()
    better.dense.weight.data *= torch.linspace(1, 0.5, 16)
    live = verify(
        Subject(numpy_of(model), model, better), images, labels, THREAT, level=QUICK, gates=Gates(max_robust_drop=1.0)
    )
    found = live.findings.reference
    exact = exactly_robust(better, images, labels, THREAT.epsilon)
    assert found.robust == Rate.of(exact)
    assert found.loss == Loss.of(exact, exactly_robust(model, images, labels, THREAT.epsilon))
    assert live.decision == "robust"
    assert {row.source for row in live.findings.attacks} == {"checkpoint", "reference", "artefact"}

    clean = numpy_of(better)(images).argmax(1) == labels
    known = verify(
        Subject(numpy_of(model), model), images, labels, THREAT, level=QUICK, gates=Gates(max_robust_drop=1.0),
        reference_right=(clean, exact),
    )  # fmt: skip
    assert known.findings.reference == found
    assert {row.source for row in known.findings.attacks} == {"checkpoint", "artefact"}


def test_a_level_draws_its_images_by_the_seed_and_the_reference_follows(case, tmp_path):
    model, images, labels = case
    few = dataclasses.replace(QUICK, images=70)
    clean = numpy_of(model)(images).argmax(1) == labels
    known = (clean, exactly_robust(model, images, labels, THREAT.epsilon))
    drawn = []
    for seed in (0, 0, 1):
        said = verify(
            Subject(numpy_of(model), model), images, labels, THREAT, level=few, seed=seed, reference_right=known,
            arrays=tmp_path / "drawn.npz",
        )  # fmt: skip
        with np.load(tmp_path / "drawn.npz") as saved:
            drawn.append(saved["indices"])
        assert said.findings.n == 70
        assert said.findings.reference.loss.value == 0
        np.testing.assert_array_equal(np.unique(drawn[-1]), drawn[-1])
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def rate(value: float, n: int = 1000) -> Rate:
    return Rate(round(value * n), n)


def findings(
    robust: float = 0.6, *, n: int = 1000, lost: int = 0, reference_lost: int | None = None, **more
) -> Findings:
    """Measured values with a checkpoint that is right on `lost` more examples, and a reference likewise."""

    def comparison(count: int) -> Comparison:
        mine = np.arange(n) < round(robust * n)
        other = np.arange(n) < round(robust * n) + count
        return Comparison(rate(0.9, n), Rate.of(other), Loss.of(other, mine))

    return Findings(
        **{
            "threat": "linf:0.1:10", "n": n, "classes": 10, "clean": rate(0.9, n), "robust": rate(robust, n),
            "attacks": (), "parity": Rate(2 * n, 2 * n), "checkpoint": comparison(lost),
            "reference": None if reference_lost is None else comparison(reference_lost), **more,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "gates", "decision", "words"),
    [
        (findings(), Gates(), "robust", "not inferior to the checkpoint"),
        (findings(lost=50), Gates(), "not robust", "is above 3 points"),
        (findings(lost=25), Gates(), "inconclusive", "too few to tell"),
        (findings(n=20), Gates(), "inconclusive", "too few to tell"),
        (findings(0.1), Gates(), "not robust", "not above guessing"),
        (findings(), Gates(0.6), "robust", "reaches the 60 % asked for, although n = 1000 leaves less than that open"),
        (findings(), Gates(0.5), "robust", "reaches the 50 % asked for$"),
        (findings(), Gates(0.601), "not robust", "below the 60.1 % asked for"),
        (findings(lost=50), Gates(0.5), "robust", "reaches"),
        (findings(reference_lost=50), Gates(None, 0.05), "robust", "allowed, although n = 1000 leaves more"),
        (findings(reference_lost=51), Gates(None, 0.05), "not robust", "above the 5 points allowed"),
        (findings(reference_lost=-30), Gates(0.5, 0.0), "robust", "within the 0 points"),
        (findings(), Gates(None, 0.05), "inconclusive", "no reference to lose against"),
        (findings(), Gates(0.7, 0.05), "not robust", "below the 70 %"),
        (findings(flags=("zero gradients",)), Gates(), "inconclusive", "1 flag raised"),
        (findings(flags=("a", "b")), Gates(0.5), "inconclusive", "2 flags raised"),
        (findings(flags=("a",)), Gates(0.7), "not robust", "below"),
        (findings(parity_fault="logits differ"), Gates(0.5), "inconclusive", "parity failed.*logits differ"),
        (findings(parity=None, checkpoint=None), Gates(), "inconclusive", "no differentiable twin"),
        (findings(parity=None, checkpoint=None), Gates(0.5), "inconclusive", "no differentiable twin"),
        (findings(parity=None, checkpoint=None), Gates(0.7), "not robust", "below"),
    ],
)  # fmt: skip
def test_decisions(found, gates, decision, words):
    said, reasons = decide(found, gates, LEVELS["standard"].margin)
    assert said == decision, reasons
    assert re.search(words, "; ".join(reasons)), reasons


def test_a_verdict_cannot_be_robust_with_a_flag_and_its_exit_codes_are_the_documented_ones():
    def made(decision: str, gates: Gates = Gates(), **more) -> Verdict:  # noqa: B008
        return Verdict(decision, (), findings(**more), gates, 0.03, "standard", 0, "model.onnx", "", (), 1.0)

    with pytest.raises(ValueError, match="never 'robust' with a flag"):
        made("robust", flags=("FGSM beats PGD",))
    with pytest.raises(ValueError, match="never 'robust'"):
        made("robust", parity=None)
    assert made("robust").exit_code == 0
    assert made("not robust").exit_code == 4
    assert made("inconclusive").exit_code == 5
    assert made("not checked").exit_code == 0
    assert made("not checked", Gates(0.5)).exit_code == 5
    with pytest.raises(InputError, match="between 0 and 1"):
        Gates(min_robust=40)


# Flags, each by itself


@pytest.mark.parametrize(("more", "n", "raised"), [(2, 100, False), (3, 100, True), (3, 1500, False), (4, 1500, True)])
def test_a_flag_needs_three_images_and_a_fifth_of_a_point(more, n, raised):
    assert (masking.beaten_flag("FGSM", "PGD", more, n) is not None) == raised
    assert masking.beaten_flag("FGSM", "PGD", more, n, least=0.05) is None


def test_transfer_that_does_better_is_a_sign_where_chance_and_a_staircase_do_not_explain_it():
    """By hand: exact McNemar of 6 to 0 is 2 / 64 = 0.03, of 5 to 0 is 0.06."""

    def flag(only_white_box: int, only_transfer: int, quantised: bool = False) -> str | None:
        white_box = np.repeat([True, False, True], (only_white_box, only_transfer, 100))
        transfer = np.repeat([False, True, True], (only_white_box, only_transfer, 100))
        return masking.transfer_flag(white_box, transfer, quantised=quantised)

    assert flag(5, 0) is None
    assert "transfer from the checkpoint beats white-box by 6 of 106 images" in flag(6, 0)
    assert flag(0, 6) is None
    assert flag(12, 9) is None
    white_box, transfer = np.ones(1000, dtype=bool), np.arange(1000) >= 20
    assert masking.transfer_flag(white_box, transfer) is not None
    assert masking.transfer_flag(white_box, transfer, quantised=True) is None
    assert masking.transfer_flag(white_box, np.arange(1000) >= 31, quantised=True) is not None


def test_a_network_that_never_errs_in_a_huge_ball_is_flagged(case):
    model, images, labels = case

    class Constant(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.pad(batch.flatten(1).sum(1, keepdim=True) * 0, (0, 4)) + torch.eye(5)[2]

    x, y = torch.from_numpy(images), torch.full((N,), 2)
    assert "still right in a ball of 0.5" in masking.large_epsilon_flag(Constant(), x, y, total=N, seed=0)
    assert masking.large_epsilon_flag(Constant(), x[:2], y[:2], total=N, seed=0) is None
    right = numpy_of(model)(images).argmax(1) == labels
    x, y = x[right], torch.from_numpy(labels)[right]
    assert masking.large_epsilon_flag(model, x, y, total=N, seed=0) is None


def test_zero_gradients_are_of_the_margin_per_image():
    class Half(Linear):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.where(batch.mean((1, 2, 3), keepdim=True) > 0.5, batch.detach(), batch))

    images = torch.cat([torch.full((4, *IMAGE), 0.9), torch.full((6, *IMAGE), 0.1)])
    zero = masking.zero_gradients(Half(), images, torch.zeros(10, dtype=torch.long), batch_size=3)
    assert zero.tolist() == [True] * 4 + [False] * 6
    assert "4 of 10" in masking.zero_gradient_flag(zero)
    assert masking.zero_gradient_flag(zero[2:]) is None  # two images are no flag


# Square on any function


def test_square_stays_in_the_ball_and_depends_on_the_seed_alone(case):
    model, images, labels = case
    near_the_box = np.where(images > 0.5, np.float32(0.99), np.float32(0.01))

    def run(batch_size: int, seed: int = 0):
        return square(
            numpy_of(model), near_the_box, labels, 0.1, queries=40, generator=np.random.default_rng(seed),
            batch_size=batch_size,
        )  # fmt: skip

    found = run(256)
    assert np.abs(found.points - near_the_box).max() <= 0.1 + 1e-6
    assert found.points.min() >= 0
    assert found.points.max() <= 1
    assert found.points.dtype == np.float32
    np.testing.assert_array_equal(found.points, run(7).points)
    assert not np.array_equal(found.points, run(256, seed=1).points)
    np.testing.assert_array_equal(found.right, numpy_of(model)(found.points).argmax(1) == labels)


def test_square_nears_the_exact_robust_accuracy(case):
    model, images, labels = case
    exact = exactly_robust(model, images, labels, THREAT.epsilon)
    found = square(numpy_of(model), images, labels, THREAT.epsilon, queries=300, generator=np.random.default_rng(0))
    assert not (exact & ~found.right).any()
    assert (found.right & ~exact).sum() <= 0.02 * N


def test_square_crosses_plateaus_and_starts_where_others_stopped(case):
    """Logits in coarse stairs, as of an int8 file: most steps tie, and a search that refuses ties stands still."""
    model, images, labels = case

    def stairs(batch: np.ndarray) -> np.ndarray:
        return np.round(numpy_of(model)(batch) * 2) / 2

    right = stairs(images).argmax(1) == labels
    generator = np.random.default_rng(0)
    weight = model.dense.weight.detach().numpy()
    steps = np.sign(-weight[labels] + weight.mean(axis=0)).reshape(-1, *IMAGE)
    start = np.clip(images + np.float32(0.045) * steps, 0, 1).astype(np.float32)
    cold = square(stairs, images[right], labels[right], 0.05, queries=30, generator=generator)
    warm = square(stairs, images[right], labels[right], 0.05, queries=30, generator=generator, start=start[right])
    assert warm.right.sum() < cold.right.sum()
    assert (margins(stairs(warm.points), labels[right]) <= margins(stairs(start[right]), labels[right])).all()


def test_square_leaves_the_fallen_alone_and_counts_what_it_asks():
    images = np.full((3, *IMAGE), 0.5, dtype=np.float32)
    asked = []

    def predict(batch: np.ndarray) -> np.ndarray:
        asked.append(len(batch))
        return np.eye(2, dtype=np.float32)[np.zeros(len(batch), dtype=int)]

    found = square(predict, images, np.array([0, 1, 0]), 0.1, queries=4, generator=np.random.default_rng(0))
    assert asked[:2] == [3, 2]
    assert max(asked[1:]) == 2, "the one that fell is not asked again"
    assert found.forwards == sum(asked)
    assert found.right.tolist() == [True, False, True]
    with pytest.raises(InputError, match="at least one point"):
        square(predict, images, np.array([0, 1, 0]), 0.1, queries=0, generator=np.random.default_rng(0))


# What cannot be verified


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": np.zeros((4, *IMAGE))}, "float32"),
        ({"images": np.full((N, *IMAGE), 2.0, dtype=np.float32)}, r"in \[0, 1\], got 2 to 2"),
        ({"labels": np.zeros(3, dtype=np.int64)}, "one class per image"),
        ({"labels": np.full(N, 9)}, "labels are classes of the artefact, got 9 to 9"),
        ({"level": "huge"}, "one of smoke, standard, publish, got 'huge'"),
        ({"reference_right": (np.ones(3, dtype=bool), np.ones(3, dtype=bool))}, "one flag per image"),
        ({"reference_right": (np.zeros(N, dtype=bool), np.ones(N, dtype=bool))}, "gets right without"),
        ({"subject": Subject(lambda batch: np.zeros((len(batch), 2, 2), dtype=np.float32))}, r"logits \(N, classes\)"),
        ({"subject": Subject(numpy_of(Linear()), nn.Sequential(nn.Flatten()))}, "other classes"),
    ],
)
def test_what_cannot_be_verified_is_one_sentence(case, change, words):
    model, images, labels = case
    given = {"subject": Subject(numpy_of(model), model), "images": images, "labels": labels, "level": QUICK, **change}
    with pytest.raises(InputError, match=words):
        verify(given.pop("subject"), given.pop("images"), given.pop("labels"), THREAT, **given)


def test_nothing_is_claimed_of_logits_that_are_no_numbers(case):
    images, labels = case[1:]
    with pytest.raises(UncheckedError, match="the artefact gives NaN or infinity"):
        verify(Subject(lambda batch: np.full((len(batch), CLASSES), np.nan)), images, labels, THREAT, level=QUICK)
    with pytest.raises(UncheckedError, match="the attacked network gives NaN or infinity"):
        verify(Subject(numpy_of(case[0]), Linear(scale=torch.inf)), images, labels, THREAT, level=QUICK)


def test_nothing_is_claimed_of_points_outside_the_ball(case, monkeypatch):
    model, images, labels = case

    def cheating(name, model, images, labels, threat, *, seed):
        return AttackResult(images + 2 * threat.epsilon, torch.ones(len(images), dtype=torch.bool), 0, 0, 0.0)

    monkeypatch.setattr(making, "attack", cheating)
    with pytest.raises(UncheckedError, match="points of fgsm must be in the ball"):
        verify(Subject(numpy_of(model), model), images, labels, THREAT, level=QUICK)
