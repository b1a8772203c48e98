"""Models that make attacks look weak: each is caught, never called robust, and named in words that a user understands.

Where outputs can be repaired (softmax, huge logits) the repaired form is attacked, and the robust accuracy is right.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from verify_doubles import numpy_of

from rcnas_edge.attacks import Threat
from rcnas_edge.evaluate import Rate
from rcnas_edge.verify import Gates, Level, Subject, Verdict, verify
from rcnas_edge.verify.forms import LEAST, Form, Formed, softmax

CLASSES, N = 5, 150
THREAT = Threat.parse("linf:0.02:5")
LEVEL = Level(images=N, seeds=1, square_queries=20, artefact_queries=100, margin=0.05, evasion_steps=20)


class Linear(nn.Module):
    """Logits `scale` (W x + b): its exact robust accuracy is known."""

    def __init__(self, seed: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.randn(CLASSES, 16, generator=torch.Generator().manual_seed(seed)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * ((images - 0.5).flatten(1) @ self.weight.T)


class Softmax(Linear):
    """Probabilities, as a file that ends in a softmax gives."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images).softmax(1)


class Rounding(Linear):
    """Inputs rounded to 8 bits: the gradient is zero everywhere."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.round(images * 255) / 255)


class Straight(Linear):
    """The same with gradients straight through the rounding."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images + (torch.round(images * 255) / 255 - images).detach())


class Quantised(Linear):
    """Weights on so few steps that little is left."""

    quantised = True

    def __init__(self, levels: int) -> None:
        super().__init__()
        step = self.weight.abs().max() / levels
        self.weight.data = torch.round(self.weight.data / step) * step


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """Images away from the box, labelled by the linear model, a tenth of the labels wrong."""
    draw = np.random.default_rng(1)
    images = draw.uniform(0.2, 0.8, (N, 1, 4, 4)).astype(np.float32)
    labels = numpy_of(Linear())(images).argmax(1)
    labels[draw.random(N) < 0.1] += 1
    return images, labels % CLASSES


def exact(images: np.ndarray, labels: np.ndarray, model: Linear | None = None) -> Rate:
    """A linear classifier is right in the whole ball iff every margin exceeds epsilon times its weights' L1 norm."""
    weight = (model or Linear()).weight.detach().double().numpy()
    logits = (images.reshape(len(images), -1).astype(np.float64) - 0.5) @ weight.T
    slack = logits[np.arange(len(labels)), labels][:, None] - logits
    slack -= THREAT.epsilon * np.abs(weight[labels][:, None] - weight[None]).sum(axis=2)
    slack[np.arange(len(labels)), labels] = np.inf
    return Rate.of(slack.min(axis=1) > 0)


def said(subject: Subject, data: tuple[np.ndarray, np.ndarray], **more) -> Verdict:
    return verify(subject, *data, THREAT, level=LEVEL, **more)


def words(verdict: Verdict) -> str:
    """Everything that a user reads."""
    return "; ".join((*verdict.reasons, *verdict.flags))


# Outputs that can be repaired


@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_huge_logits_are_brought_down_and_said_so(data, scale):
    model = Linear(scale=scale)
    verdict = said(Subject(numpy_of(model), model), data)
    assert verdict.robust == exact(*data)
    assert "logits are so large (median margin" in words(verdict)
    assert "which changes no class" in words(verdict)
    first = next(row for row in verdict.findings.attacks if row.name == "apgd-ce")
    assert first.robust.hits <= exact(*data).hits + 3, "cross-entropy alone finds nearly all of it"


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_probabilities_are_attacked_by_their_logarithm_and_said_so(data, scale):
    model = Softmax(scale=scale)
    verdict = said(Subject(numpy_of(model), model), data)
    assert verdict.robust == exact(*data)
    assert "outputs are probabilities (softmax): attacks run on their logarithm" in words(verdict)
    assert verdict.findings.parity.value == 1


def test_a_file_of_probabilities_and_a_twin_of_logits_agree(data):
    verdict = said(Subject(numpy_of(Softmax()), Linear()), data)
    assert verdict.findings.parity_fault == ""
    assert verdict.robust == exact(*data)
    assert "outputs are probabilities" in words(verdict)


def test_a_softmax_of_huge_logits_hides_its_gradient_and_is_flagged(data):
    """Its probabilities are 0 and 1 to the last bit: no logarithm brings the margin back."""
    model = Softmax(scale=1e4)
    verdict = said(Subject(numpy_of(model), model), data, gates=Gates(min_robust=0.01))
    assert verdict.decision == "inconclusive"
    assert "zero gradients" in words(verdict)


def test_forms_change_no_class_and_are_the_same_in_torch_and_numpy():
    outputs = np.array([[0.7, 0.2, 0.1], [1e-30, 1, 0], [0.25, 0.5, 0.25]], dtype=np.float32)
    form = Form.of(outputs)
    assert (form.probabilities, form.scale) == (True, 1.0)
    np.testing.assert_allclose(form.logits(outputs)[0], np.log([0.7, 0.2, 0.1]), rtol=1e-6)
    assert form.logits(outputs)[1, 2] == pytest.approx(np.log(LEAST))
    given = torch.from_numpy(outputs)
    np.testing.assert_allclose(Formed(nn.Identity(), form)(given).numpy(), form.logits(outputs), rtol=1e-6)
    np.testing.assert_array_equal(form.logits(outputs).argmax(1), outputs.argmax(1))
    large = np.array([[0, 5000.0], [7000, 1000]], dtype=np.float32)
    assert Form.of(large) == Form(False, 1024.0, 5500.0)  # 5500 / 5 = 1100, and the nearest power of two
    assert Form.of(large / 1000).trivial
    assert str(Form.of(large / 1000)) == ""
    np.testing.assert_allclose(softmax(large), [[0, 1], [1, 0]])


# Gradients that are not there


@pytest.mark.parametrize("gate", [None, 0.05])
def test_rounding_has_no_gradient_is_named_and_attacked_all_the_same(data, gate):
    model = Rounding()
    verdict = said(Subject(numpy_of(model), model), data, gates=Gates(gate))
    assert verdict.decision == "inconclusive"
    assert f"zero gradients: {N} of {N} images have no gradient at all" in words(verdict)
    assert verdict.robust.value < verdict.clean.value - 0.1, "Square on the artefact"


def test_two_images_without_gradients_are_no_proof(data):
    """Too few for the flag on a share of the images, and no attack by gradients was possible all the same."""
    model = Rounding()
    verdict = said(Subject(numpy_of(model), model), tuple(part[:2] for part in data), gates=Gates(0.05))
    assert verdict.decision != "robust"
    assert "zero gradients: none of 2 images has a gradient" in words(verdict)


def test_a_part_without_gradients_is_named(data):
    class Half(Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            hidden = images.flatten(1)[:, :1] > 0.6
            return super().forward(torch.where(hidden[:, :, None, None], images.detach(), images))

    verdict = said(Subject(numpy_of(Half()), Half()), data)
    assert verdict.decision == "inconclusive"
    assert "zero gradients: " in words(verdict)


def test_the_naive_gradient_is_a_flag_where_nothing_should_stop_it_and_information_on_a_qdq_graph(data):
    """The file rounds; by its own gradient it looks as right as on clean images, straight through it does not."""
    straight = Straight()
    subject = Subject(numpy_of(Rounding()), straight, parent=Linear(), naive=Rounding())
    verdict = said(subject, data)
    gap = verdict.findings.naive_gap
    assert gap.naive.hits > gap.straight_through.hits + 10
    assert "naive gradients: PGD that follows the graph's own gradients leaves" in words(verdict)
    assert verdict.decision == "inconclusive"

    straight.quantised = True
    on_qdq = said(subject, data)
    assert on_qdq.findings.naive_gap == gap
    assert on_qdq.flags == ()
    assert on_qdq.findings.twin == "re-import, straight through its rounding"
    assert abs(on_qdq.robust.hits - exact(*data).hits) <= 3


def test_a_twin_whose_gradients_mislead_loses_against_transfer_from_the_parent(data):
    """The twin answers as the file does, and its gradient leads nowhere; the parent's points show it."""

    class Misleading(Linear):
        quantised = False

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            noise = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(5))
            turned = images.detach() + (images - images.detach()) * noise
            return super().forward(turned)

    verdict = said(Subject(numpy_of(Linear()), Misleading(), parent=Linear()), data)
    assert verdict.findings.parity_fault == ""
    assert verdict.robust == exact(*data)
    assert "transfer from the checkpoint beats white-box" in words(verdict)
    assert verdict.decision == "inconclusive"


# Answers that are not of the image alone


def test_random_answers_are_named(data):
    draw = np.random.default_rng(0)

    def predict(images: np.ndarray) -> np.ndarray:
        return draw.normal(size=(len(images), CLASSES)).astype(np.float32)

    verdict = said(Subject(predict, Linear()), data)
    assert verdict.decision != "robust"
    assert "output differs between runs" in words(verdict)


@pytest.mark.parametrize("gate", [None, 0.01])
def test_a_random_twin_is_named(data, gate):
    class Noisy(Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) + 0.1 * torch.randn(len(images), CLASSES)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        verdict = said(Subject(numpy_of(Linear()), Noisy()), data, gates=Gates(gate))
    assert verdict.decision == "inconclusive"
    assert "parity failed, so the attacked network is not the artefact" in words(verdict)


@pytest.mark.parametrize("size", [1, 5, 16])
def test_answers_that_depend_on_the_batch_are_named(data, size):
    def predict(images: np.ndarray) -> np.ndarray:
        logits = numpy_of(Linear())(images)
        return logits[:, ::-1].copy() if len(images) == size else logits

    verdict = said(Subject(predict, Linear()), data, gates=Gates(0.01))
    assert verdict.decision == "inconclusive"
    assert f"output differs between batch sizes: a batch of {size}" in words(verdict)


# Files that are not what they should be


def test_classes_swapped_between_file_and_twin_are_named(data):
    order = [1, 0, 2, 3, 4]
    verdict = said(Subject(lambda images: numpy_of(Linear())(images)[:, order], Linear()), data)
    assert verdict.decision != "robust"
    assert "its classes stand in another order" in words(verdict)


@pytest.mark.parametrize("gate", [None, 0.05])
def test_classes_swapped_between_file_and_labels_are_named(data, gate):
    """File and twin agree; only the labels know that two of the classes have changed places."""
    model = Linear()
    model.weight.data = model.weight.data[[1, 0, 2, 3, 4]]
    verdict = said(Subject(numpy_of(model), model), data, gates=Gates(gate))
    assert verdict.decision != "robust"
    assert "swapped classes: the file answers most images of class 0 as 1" in words(verdict)


@pytest.mark.parametrize("gate", [None, 0.05])
@pytest.mark.parametrize("with_parent", [False, True])
def test_a_file_that_was_quantised_until_useless_is_named(data, gate, with_parent):
    model = Quantised(levels=1)
    model.weight.data[1:] = model.weight.data[:1]  # nothing tells the classes apart any more
    subject = Subject(numpy_of(model), model, parent=Linear() if with_parent else None)
    verdict = said(subject, data, gates=Gates(gate))
    assert verdict.decision != "robust"
    assert "useless: clean accuracy" in words(verdict)


def test_a_file_that_lost_half_of_what_its_parent_knows_is_named(data):
    model = Linear()
    model.weight.data += 3.0 * torch.randn(model.weight.shape, generator=torch.Generator().manual_seed(3))
    model.quantised = True
    verdict = said(Subject(numpy_of(model), model, parent=Linear()), data, gates=Gates(0.01))
    assert verdict.clean.low > 1 / CLASSES, "it still knows something"
    assert verdict.decision == "inconclusive"
    assert "less than half of what the checkpoint has above guessing" in words(verdict)


@pytest.mark.parametrize("twin", [Linear(seed=7), Linear(scale=1.01), Straight()], ids=["other", "scaled", "rounds"])
def test_a_twin_that_is_not_the_artefact_is_named(data, twin):
    verdict = said(Subject(numpy_of(Linear()), twin), data, gates=Gates(0.01))
    assert verdict.decision == "inconclusive"
    assert "parity failed, so the attacked network is not the artefact" in words(verdict)


def test_a_quantised_twin_must_give_every_class_alike(data):
    """Within 1e-3 of the logits' range, but one image in another class: not the same staircase."""
    model = Quantised(levels=7)
    logits = numpy_of(model)(data[0])
    top = np.sort(logits, axis=1)
    closest = int((top[:, -1] - top[:, -2]).argmin())
    assert top[closest, -1] - top[closest, -2] < 2e-3 * np.ptp(logits)

    def predict(images: np.ndarray) -> np.ndarray:
        answers = numpy_of(model)(images)
        here = np.abs(images - data[0][closest]).max(axis=(1, 2, 3)) < 1e-9
        first, second = answers[here].argmax(1), answers[here].argsort(1)[:, -2]
        gap = (answers[here, first] - answers[here, second]) / 2 + 1e-6
        answers[here, first] -= gap
        answers[here, second] += gap
        return answers

    verdict = said(Subject(predict, model), data)
    assert verdict.findings.drift["clean_max"] < 2e-3
    assert "parity failed" in words(verdict)
    faithful = said(Subject(numpy_of(model), model), data)
    assert faithful.findings.parity_fault == ""


def test_an_artefact_that_is_right_on_clean_images_alone_is_named(data):
    """It knows the test images by heart and the twin is honest: adversarial points tell them apart."""
    known = {image.tobytes(): label for image, label in zip(*data, strict=True)}

    def predict(images: np.ndarray) -> np.ndarray:
        logits = numpy_of(Linear())(images)
        for row, image in zip(logits, images, strict=True):
            if (label := known.get(image.tobytes())) is None:
                row += 0.5 * np.roll(row, 1)
            elif row.argmax() != label:
                row[label] = row.max() + 0.1
        return logits

    verdict = said(Subject(predict, Linear()), data, gates=Gates(0.01))
    assert verdict.decision == "inconclusive"
    assert "parity failed" in words(verdict)


def test_honest_models_raise_nothing(data):
    """The controls: without them every catch above would be an alarm that always rings."""
    for model in (Linear(), Softmax(), Linear(scale=1e3), Straight()):
        model.quantised = isinstance(model, Straight)
        verdict = said(Subject(numpy_of(model), model, parent=Linear()), data)
        assert verdict.flags == (), type(model)
        assert verdict.decision == "robust", words(verdict)
    twin_only = dataclasses.replace(Subject(numpy_of(Linear()), Linear()))
    assert said(twin_only, data).decision == "robust"
