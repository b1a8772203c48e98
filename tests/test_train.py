"""Adversarial training: losses against hand arithmetic, batches that depend on the seed alone, resuming to the bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from rcnas_edge.attacks import Threat
from rcnas_edge.data import Split, load_dataset
from rcnas_edge.errors import InputError, TrainingError
from rcnas_edge.train.batches import Batches, augment, seeded
from rcnas_edge.train.fit import fit
from rcnas_edge.train.judging import clean_and_robust, reestimate_statistics
from rcnas_edge.train.losses import inner_objective, training_loss
from rcnas_edge.train.recipe import RECIPES, recipe

CPU = torch.device("cpu")
THREAT = Threat.parse("linf:0.1:10")


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", subset=300)


class Tiny(nn.Module):
    """A convolution with batch normalisation and a linear layer, on 8x8 digits."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(1, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 16, 10)

    def forward(self, images):
        return self.head(self.norm(self.conv(images)).relu().flatten(1))


def quick(epochs: int, **changes):
    return recipe("pgd-at", epochs=epochs, batch_size=64, attack_steps=3, **changes)


def test_rslad_is_five_sixths_and_one_sixth():
    adversarial, natural = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    soft = torch.tensor([[0.7, 0.3]])

    def kl(logits):
        probabilities = torch.exp(logits) / torch.exp(logits).sum()
        return (soft * torch.log(soft / probabilities)).sum()

    loss = training_loss("rslad", adversarial, natural, torch.tensor([0]), soft)
    assert float(loss) == pytest.approx(float(5 / 6 * kl(adversarial) + 1 / 6 * kl(natural)), rel=1e-5)
    assert float(inner_objective("rslad", torch.tensor([0]), soft)(adversarial)) == pytest.approx(
        float(kl(adversarial))
    )


def test_pgd_training_is_cross_entropy_on_adversarial_logits():
    logits, labels = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0])
    expected = -torch.log_softmax(logits, 1)[range(5), labels].mean()
    assert float(training_loss("pgd-at", logits, None, labels, None)) == pytest.approx(float(expected))


@pytest.mark.parametrize("kind", ["none", "crop", "crop+flip"])
def test_batches_depend_on_seed_and_epoch_alone(digits, kind):
    def epoch(seed, number):
        batches = Batches(digits.train, batch_size=32, augmentation=kind, device=CPU)
        return torch.cat([images for images, _ in batches.epoch(seed, number)])

    assert torch.equal(epoch(1, 2), epoch(1, 2))
    assert not torch.equal(epoch(1, 2), epoch(1, 3))
    assert not torch.equal(epoch(1, 2), epoch(2, 2))


def test_a_crop_is_a_shift_and_a_flip_is_a_mirror():
    images = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) + 1
    moved = augment(images, "crop+flip", seeded(CPU, 0))
    padded = torch.nn.functional.pad(images, (2,) * 4)
    shifts = set()
    for image, result in zip(padded, moved, strict=True):
        windows = {
            (dy, dx, flip): (
                image[:, dy : dy + 16, dx : dx + 16].flip(2) if flip else image[:, dy : dy + 16, dx : dx + 16]
            )
            for dy in range(5)
            for dx in range(5)
            for flip in (False, True)
        }
        found = [key for key, window in windows.items() if torch.equal(window, result)]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) > 20


@pytest.mark.parametrize("name", [name for name, entry in RECIPES.items() if not entry.distils])
def test_training_makes_a_network_robust(digits, name):
    model = Tiny()
    images, labels = torch.from_numpy(digits.test.floats()), torch.from_numpy(digits.test.labels)
    before = clean_and_robust(model, images, labels, THREAT, seed=0)
    fitted = fit(model, digits, THREAT, recipe(name, epochs=12, batch_size=64, attack_steps=3))
    after = clean_and_robust(model, images, labels, THREAT, seed=0)
    assert before[1] < 0.2
    assert after[0] > 0.75
    assert after[1] > 0.4
    assert fitted.best.robust == max(epoch.robust for epoch in fitted.history)
    assert not model.training
    assert all(weight.is_contiguous() for weight in model.parameters()), "a file of tensors takes no other layout"


def test_a_resumed_training_equals_the_unbroken_one(digits, tmp_path):
    """Killed after every epoch in turn: the same weights to the bit."""
    unbroken = Tiny()
    fitted = fit(unbroken, digits, THREAT, quick(4), seed=3)

    class Killed(Exception):
        pass

    def kill(epoch, _):
        raise Killed

    state = tmp_path / "state.safetensors"
    for _ in range(4):
        with pytest.raises(Killed):
            fit(Tiny(seed=99 if state.exists() else 0), digits, THREAT, quick(4), seed=3, state=state, progress=kill)
    resumed = Tiny(seed=77)
    again = fit(resumed, digits, THREAT, quick(4), seed=3, state=state)
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert [replace(epoch, seconds=0) for epoch in again.history] == [
        replace(epoch, seconds=0) for epoch in fitted.history
    ]
    assert again.best_epoch == fitted.best_epoch


def test_distillation_follows_the_teacher_where_labels_lie(digits):
    """With a teacher that calls every class its successor the student learns the teacher, not the labels."""
    teacher = Tiny(seed=5)
    shifted = replace(digits, train=Split(digits.train.images, (digits.train.labels + 1) % 10))
    fit(teacher, replace(shifted, held_out=shifted.train), THREAT, quick(10))
    student = Tiny(seed=6)
    fit(student, digits, THREAT, recipe("rslad", epochs=10, batch_size=64, attack_steps=3), teacher=teacher)
    images = torch.from_numpy(digits.test.floats())
    with torch.no_grad():
        right = (student(images).argmax(1).numpy() == (digits.test.labels + 1) % 10).mean()
    assert right > 0.5


def test_a_loss_that_is_not_a_number_ends_the_training(digits):
    with pytest.raises(TrainingError, match="--learning-rate"):
        fit(Tiny(), digits, THREAT, quick(2, learning_rate=1e20).with_(clip=1e30))


def test_statistics_are_those_of_the_images(digits):
    model = Tiny()
    reestimate_statistics(model, Batches(digits.train, batch_size=len(digits.train), augmentation="none", device=CPU))
    with torch.no_grad():
        outputs = model.conv(torch.from_numpy(digits.train.floats()))
    assert np.allclose(model.norm.running_mean, outputs.mean((0, 2, 3)), atol=1e-5)
    assert np.allclose(model.norm.running_var, outputs.var((0, 2, 3)), rtol=1e-4)


def test_test_images_are_never_seen(digits):
    """Training on a data set whose test split is something else gives the same weights."""
    first, second = Tiny(), Tiny()
    fit(first, digits, THREAT, quick(1))
    blank = Split(np.zeros_like(digits.test.images), digits.test.labels)
    fit(second, replace(digits, test=blank), THREAT, quick(1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_recipes_name_their_source_and_check_themselves():
    assert all("arXiv" in entry.source or "openreview" in entry.source for entry in RECIPES.values())
    with pytest.raises(InputError, match="one of pgd-at, rslad"):
        recipe("tradez")
    with pytest.raises(InputError, match="at least 1"):
        recipe("pgd-at", epochs=0)
    with pytest.raises(InputError, match="at least 2 images at a time"):
        recipe("pgd-at", batch_size=8, accumulate=5)
