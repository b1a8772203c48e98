"""Attacks against oracles: exact robust accuracy of linear models, torchattacks' own loops, and counted passes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torchattacks
from torch import Tensor, nn

from rcnas_edge.attacks import AttackResult, Counted, Threat, attack, headline, names, pgd, square
from rcnas_edge.errors import InputError, UncheckedError

THREAT = Threat.parse("linf:0.02:10")
OURS = ("fgsm", "pgd", "cw", "apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square", "autoattack")
QUICK = {name: {"steps": 20} for name in ("apgd-ce", "apgd-dlr", "apgd-t")}
QUICK |= {"fab-t": {"steps": 10}, "square": {"n_queries": 30}}
QUICK["autoattack"] = {"steps": 10, "n_queries": 20}


def linear(classes: int, seed: int = 0) -> nn.Module:
    """A linear classifier of 1x5x5 images that cannot tell the middle of the box."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(25, classes)
    layer.weight.data = torch.randn(classes, 25, generator=generator)
    layer.bias.data = -0.5 * layer.weight.data.sum(1)
    return nn.Sequential(nn.Flatten(), layer)


def data_of(model: nn.Module, count: int = 60, *, wrong: int = 6, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Images well inside the box, labelled by the model except for the first `wrong` ones."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 + 0.4 * torch.rand(count, 1, 5, 5, generator=generator)
    with torch.no_grad():
        logits = model(images)
    labels = logits.argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % logits.shape[1]
    return images, labels


def exactly_robust(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """The oracle: every margin of a linear model, less epsilon times the L1 norm of its weights, is positive."""
    weight, bias = model[1].weight.double(), model[1].bias.double()
    differences = weight[labels][:, None] - weight[None]  # (N, classes, 25)
    margins = (differences * images.double().flatten(1)[:, None]).sum(-1) + bias[labels][:, None] - bias
    worst = margins - epsilon * differences.abs().sum(-1)
    worst[torch.arange(len(labels)), labels] = torch.inf
    assert worst.abs().min() > 1e-6, "the oracle is ambiguous: choose another seed"
    return worst.amin(1) > 0


class Small(nn.Module):
    """A convolutional network with everything a mode or a layout can be lost on."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(8 * 64, 5)
        self.calls = 0
        self.fails_at = -1

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.fails_at:
            raise RuntimeError("the model broke")
        assert not self.training
        hidden = self.dropout(torch.relu(self.norm(self.convolution(images - 0.5))))
        return self.linear(hidden.flatten(1))


@pytest.fixture
def small() -> tuple[Small, Tensor, Tensor]:
    torch.manual_seed(0)
    model = Small().eval()
    images = torch.randint(0, 256, (12, 3, 8, 8)) / 255
    with torch.no_grad():
        labels = model(images).argmax(1)
    labels[0] = (labels[0] + 1) % 5
    model.calls = 0
    return model, images, labels


# Threat models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["linf:8/255:10", "linf:8/255:10:2/255", "linf:0.031:1", "linf:.1:20:1e-2"])
def test_a_threat_prints_as_it_was_written(text: str) -> None:
    assert str(Threat.parse(text)) == text
    assert Threat.parse(str(Threat.parse(text))) == Threat.parse(text)


def test_a_threat_knows_its_numbers() -> None:
    threat = Threat.parse("linf:8/255:10")
    assert (threat.norm, threat.epsilon, threat.steps) == ("linf", 8 / 255, 10)
    assert threat.step == 2.5 * (8 / 255) / 10
    assert Threat.parse("linf:8/255:10:2/255").step == 2 / 255
    assert str(Threat("linf", 8 / 255, 10, 1 / 255)) == "linf:8/255:10:1/255"
    assert str(Threat("linf", 0.1, 10, 0.025)) == "linf:0.1:10"


def test_a_threat_with_other_steps_prints_anew_and_keeps_a_step_that_was_chosen() -> None:
    assert str(Threat.parse("linf:8/255:10").with_steps(20)) == "linf:8/255:20"
    assert Threat.parse("linf:8/255:10").with_steps(20).step == 2.5 * (8 / 255) / 20
    assert str(Threat.parse("linf:8/255:10:3/255").with_steps(20)) == "linf:8/255:20:3/255"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("l2:0.5:10", "norm is linf for now, got 'l2'"),
        ("linf:8/255", "has the form linf:EPSILON:STEPS"),
        ("linf:8:10", "epsilon is between 0 and 1"),
        ("linf:0:10", "epsilon is between 0 and 1"),
        ("linf:eight:10", "got 'eight'"),
        ("linf:8/0:10", "got '8/0'"),
        ("linf:-0.1:10", "got '-0.1'"),
        ("linf:nan:10", "got 'nan'"),
        ("linf:8/255:0", "at least one step, got 0"),
        ("linf:8/255:2.5", "steps are a whole number, got '2.5'"),
        ("linf:8/255:10:0", "step is a positive number"),
    ],
)
def test_a_threat_that_cannot_be_is_refused_in_a_sentence(text: str, says: str) -> None:
    with pytest.raises(InputError, match="threat") as caught:
        Threat.parse(text)
    assert says in str(caught.value)


# Oracles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fgsm", "pgd", "cw", "apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "autoattack"])
def test_two_class_linear_robustness_is_exact(name: str) -> None:
    model = linear(2)
    images, labels = data_of(model)
    exact = exactly_robust(model, images, labels, THREAT.epsilon)
    result = attack(name, model, images, labels, THREAT, **({"n_queries": 20} if name == "autoattack" else {}))
    assert 10 < exact.sum() < 50
    assert torch.equal(result.robust, exact)


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_the_headline_is_exact_on_linear_models(classes: int) -> None:
    model = linear(classes)
    images, labels = data_of(model)
    exact = exactly_robust(model, images, labels, THREAT.epsilon)
    results = headline(model, images, labels, THREAT, seed=0, square_queries=20)
    assert 4 < exact.sum() < 50
    assert torch.equal(results["square"].robust, exact)
    assert torch.equal(results["apgd-t"].robust, exact)


@pytest.mark.parametrize("name", OURS)
def test_no_attack_fools_what_is_provably_robust(name: str) -> None:
    model = linear(10)
    images, labels = data_of(model)
    exact = exactly_robust(model, images, labels, THREAT.epsilon)
    result = attack(name, model, images, labels, THREAT, **QUICK.get(name, {}))
    assert not (exact & ~result.robust).any()
    assert not result.robust[:6].any()


def test_square_is_an_upper_bound_that_falls_with_queries() -> None:
    model = linear(10)
    images, labels = data_of(model)
    exact = exactly_robust(model, images, labels, THREAT.epsilon)
    few = attack("square", model, images, labels, THREAT, n_queries=1).robust
    many = attack("square", model, images, labels, THREAT, n_queries=2000).robust
    assert not (exact & ~many).any()
    assert exact.sum() <= many.sum() < few.sum()


def test_pgd_in_training_is_torchattacks_pgd_without_the_random_start() -> None:
    model = linear(10)
    images, labels = data_of(model)
    ours = pgd(model, images, labels, THREAT, generator=torch.Generator(), random_start=False)
    theirs = torchattacks.PGD(model, eps=0.02, alpha=THREAT.step, steps=10, random_start=False)(images, labels)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_results_are_what_the_model_says_about_the_points(small: tuple[Small, Tensor, Tensor]) -> None:
    model, images, labels = small
    results = headline(model, images, labels, THREAT, square_queries=30, steps=10)
    clean = model(images).argmax(1) == labels
    for result in results.values():
        assert torch.equal(result.robust, clean & (model(result.adversarial).argmax(1) == labels))


# Repairs ---------------------------------------------------------------------------------------------------------


def stubborn() -> tuple[nn.Module, Tensor, Tensor]:
    """A ten-class model that no attack fools, so that each runs to its end."""
    model = linear(10)
    model[1].weight.data.mul_(1e-3)
    model[1].bias.data.zero_()[3] = 1.0
    images, _ = data_of(model, 2)
    return model, images, torch.tensor([3, 3])


def test_autoattack_as_shipped_takes_ten_steps_and_ours_a_hundred(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, labels = stubborn()
    shipped = Counted(model, images.device).eval()
    monkeypatch.setattr(torchattacks.Square, "forward", lambda self, images, labels: images)  # it has no gradients
    torchattacks.AutoAttack(shipped, eps=0.02, seed=0)(images, labels)
    assert shipped.backwards == 2 * (11 + 9 * 11 + 9 * 10)
    assert attack("autoattack", model, images, labels, THREAT, n_queries=20).backwards == 2 * (101 + 9 * 101 + 9 * 100)
    results = headline(model, images, labels, THREAT, square_queries=20)
    assert [results[name].backwards for name in results] == [2 * 101, 2 * 9 * 101, 0]
    assert 2 * (1 + 5 + 1) < results["square"].forwards <= 2 * (1 + 20 + 1)  # what it refused is not asked again


def test_nine_classes_are_targeted_and_not_all() -> None:
    model, images, labels = stubborn()
    model[1] = nn.Linear(25, 30)
    model[1].weight.data.mul_(1e-3)
    model[1].bias.data.zero_()[3] = 1.0
    assert attack("apgd-t", model, images, labels, THREAT, steps=5).backwards == 2 * 9 * 6
    assert attack("apgd-t", model, images, labels, THREAT, steps=5, n_targets=2).backwards == 2 * 2 * 6


def test_square_keeps_its_schedule_whatever_the_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = square._edge

    def watched(*inputs: Any) -> int:
        seen.append(original(*inputs))
        return seen[-1]

    monkeypatch.setattr(square, "_edge", watched)
    model = linear(10)
    images, labels = data_of(model, 2)
    attack("square", model, images, labels.new_tensor([3, 3]), Threat.parse("linf:0.001:1"), n_queries=60)
    reference = torchattacks.Square(model, n_queries=60, p_init=0.8, resc_schedule=False)
    sizes = [max(round((reference.p_selection(query) * 25) ** 0.5), 1) for query in range(60)]
    assert seen == sizes[: len(seen)]
    for query in range(10_000):
        assert original(query / square.SCHEDULE, 0.8, 100, 100) == round((reference.p_selection(query) * 1e4) ** 0.5)


def test_step_sizes_follow_the_threat(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, labels = stubborn()
    made: dict[str, float] = {}
    original = torchattacks.PGD.forward

    def watched(self: torchattacks.PGD, *inputs: Tensor) -> Tensor:
        made.update(eps=self.eps, alpha=self.alpha, steps=self.steps)
        return original(self, *inputs)

    monkeypatch.setattr(torchattacks.PGD, "forward", watched)
    attack("pgd", model, images, labels, THREAT)
    assert made == {"eps": 0.02, "alpha": 2.5 * 0.02 / 10, "steps": 10}
    attack("PGD", model, images, labels, THREAT, steps=20)
    assert made == {"eps": 0.02, "alpha": 2.5 * 0.02 / 20, "steps": 20}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BIM", {"eps": 0.02, "alpha": 2.5 * 0.02 / 10, "steps": 10}),
        ("FFGSM", {"eps": 0.02, "alpha": 1.25 * 0.02}),
        ("PIFGSM", {"max_epsilon": 0.02, "num_iter_set": 10}),
        ("DeepFool", {"steps": 50}),  # its own: it searches without an epsilon
    ],
)
def test_other_classes_follow_the_threat_too(
    name: str, expected: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, labels = stubborn()
    made: list[object] = []
    maker = getattr(torchattacks, name)
    monkeypatch.setattr(maker, "forward", lambda self, images, labels: made.append(self) or images)
    attack(name, model, images, labels, THREAT)
    assert {key: getattr(made[0], key) for key in expected} == expected


@pytest.mark.parametrize("classes", [2, 3])
def test_fewer_than_four_classes_are_attacked_on_the_margin_and_it_is_said(classes: int) -> None:
    model = linear(classes)
    images, labels = data_of(model)
    with pytest.raises(IndexError):
        torchattacks.APGDT(model, eps=0.02, n_classes=classes)(images, labels)
    result = attack("apgd-t", model, images, labels, THREAT)
    assert "DLR loss needs 4 classes" in result.note
    assert torch.equal(result.robust, exactly_robust(model, images, labels, THREAT.epsilon))
    assert attack("apgd-ce", model, images, labels, THREAT).note == ""


@pytest.mark.parametrize("name", [*OURS, "OnePixel", "Jitter"])
def test_global_random_states_are_left_alone(name: str, small: tuple[Small, Tensor, Tensor]) -> None:
    def states() -> tuple[bytes, bytes, object]:
        return torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes(), random.getstate()

    model, images, labels = small
    torch.manual_seed(11)
    np.random.seed(12)
    random.seed(13)
    before = states()
    attack(name, model, images[:4], labels[:4], THREAT, **QUICK.get(name, {}))
    assert states() == before


@pytest.mark.parametrize("fails_at", [-1, 1, 4])
@pytest.mark.parametrize("name", ["pgd", "cw", "apgd-t", "autoattack"])
def test_modes_freezing_and_layout_are_as_before(name: str, fails_at: int, small: tuple[Small, Tensor, Tensor]) -> None:
    model, images, labels = small
    model.train()
    model.norm.eval()
    model.convolution.bias.requires_grad_(False)
    model.fails_at = fails_at
    running_mean, pointer = model.norm.running_mean.clone(), model.convolution.weight.data_ptr()
    flags = [module.training for module in model.modules()]
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    random_state = torch.get_rng_state()
    options = QUICK.get(name, {})
    if fails_at > 0:
        with pytest.raises(RuntimeError, match="the model broke"):
            attack(name, model, images, labels, THREAT, **options)
    else:
        attack(name, model, images, labels, THREAT, **options)
    assert [module.training for module in model.modules()] == flags
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.convolution.weight.is_contiguous()
    assert model.convolution.weight.data_ptr() == pointer
    assert torch.equal(model.norm.running_mean, running_mean)
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("name", OURS)
def test_points_stay_in_ball_and_box_also_after_rounding(name: str, small: tuple[Small, Tensor, Tensor]) -> None:
    model, images, labels = small
    images = images.clone()
    images[:, :, :4] = images[:, :, :4].round()  # half of the pixels on the border of the box
    threat = Threat.parse("linf:8/255:10")
    points = attack(name, model, images, labels, threat, **QUICK.get(name, {})).adversarial
    assert points.dtype == torch.float32
    assert points.min() >= 0
    assert points.max() <= 1
    assert (points - images).abs().max() <= 8 / 255 + 1e-7
    levels = (255 * points).round() - (255 * images).round()
    assert levels.abs().max() == 8


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda images: images + 0.5, r"images are in \[0, 1\], got 0.5 to 1.5: undo the normalisation"),
        (lambda images: images - 0.5, r"images are in \[0, 1\]"),
        (lambda images: images * torch.nan, r"images are in \[0, 1\], got nan"),
        (lambda images: (255 * images).byte(), "divide 8-bit images by 255"),
        (lambda images: images.double(), "float32 tensor"),
        (lambda images: images[0], "float32 tensor"),
        (lambda images: images[:0], "N >= 1"),
    ],
)
def test_images_that_are_no_pixels_are_refused(spoil: object, says: str, small: tuple[Small, Tensor, Tensor]) -> None:
    model, images, labels = small
    with pytest.raises(InputError, match=says):
        attack("fgsm", model, spoil(images), labels, THREAT)
    with pytest.raises(InputError, match=says):
        headline(model, spoil(images), labels, THREAT)


def test_labels_models_names_and_options_that_do_not_fit_are_refused(small: tuple[Small, Tensor, Tensor]) -> None:
    model, images, labels = small
    with pytest.raises(InputError, match="got 0 to 5 for 5 logits"):
        attack("fgsm", model, images, torch.arange(12) % 6, THREAT)
    with pytest.raises(InputError, match="one class per image"):
        attack("fgsm", model, images, labels[:3], THREAT)
    with pytest.raises(InputError, match=r"gives logits \(N, classes\), got \(12, 3, 64\)"):
        attack("fgsm", nn.Flatten(2), images, labels, THREAT)
    with pytest.raises(InputError, match=r"run in float32, the model holds torch\.bfloat16"):
        attack("fgsm", Small().bfloat16(), images, labels, THREAT)
    with pytest.raises(InputError, match=r"one of fgsm, pgd, cw, .*; got 'pgdd'"):
        attack("pgdd", model, images, labels, THREAT)
    with pytest.raises(InputError, match="got 'PGDL2'"):
        attack("PGDL2", model, images, labels, THREAT)
    with pytest.raises(InputError, match=r"'square' takes the options give_up, n_queries.*got the option 'queries'"):
        attack("square", model, images, labels, THREAT, queries=3)
    with pytest.raises(InputError, match="'fgsm' takes no options, got the option 'steps'"):
        attack("fgsm", model, images, labels, THREAT, steps=3)
    with pytest.raises(InputError, match=r"1 to 4 of 5 classes, got n_targets=9"):
        attack("apgd-t", model, images, labels, THREAT, n_targets=9)
    with pytest.raises(InputError, match="batch_size=0"):
        attack("fgsm", model, images, labels, THREAT, batch_size=0)


def test_nothing_is_claimed_about_models_without_gradients_or_numbers(small: tuple[Small, Tensor, Tensor]) -> None:
    class Rounded(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (images.detach() * 255).round().flatten(1)[:, :5]

    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :5] * torch.nan

    _, images, labels = small
    labels = Rounded()(images).argmax(1)
    with pytest.raises(UncheckedError, match="attack it with 'square'"):
        attack("apgd-ce", Rounded(), images, labels, THREAT)
    assert isinstance(attack("square", Rounded(), images, labels, THREAT, n_queries=5), AttackResult)
    with pytest.raises(UncheckedError, match="NaN"):
        attack("fgsm", Broken(), images, labels, THREAT)


def test_an_attack_that_leaves_the_ball_is_not_believed(
    small: tuple[Small, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchattacks.FGSM, "forward", lambda self, images, labels: (images + 0.2).clamp(0, 1))
    with pytest.raises(UncheckedError, match="fgsm left by"):
        attack("fgsm", *small, THREAT)


def test_models_without_parameters_are_attacked() -> None:
    model = nn.Flatten()
    images = torch.rand(8, 1, 1, 5, generator=torch.Generator().manual_seed(0))
    labels = model(images).argmax(1)
    threat = Threat.parse("linf:0.05:10")
    gap = images.flatten(1).topk(2).values.diff().abs().squeeze(1)
    exact = gap > 2 * threat.epsilon
    assert 0 < exact.sum() < 8
    assert torch.equal(attack("autoattack", model, images, labels, threat, n_queries=20).robust, exact)


# Behaviour -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_one_seed_gives_one_result(name: str, small: tuple[Small, Tensor, Tensor]) -> None:
    model, images, labels = small
    options = QUICK.get(name, {})
    first = attack(name, model, images, labels, THREAT, seed=3, **options)
    torch.rand(7)
    again = attack(name, model, images, labels, THREAT, seed=3, **options)
    assert torch.equal(first.adversarial, again.adversarial)
    assert (first.forwards, first.backwards) == (again.forwards, again.backwards)


@pytest.mark.parametrize(
    ("name", "options"),
    [("pgd", {"steps": 1, "alpha": 1e-3}), ("apgd-ce", {"steps": 1}), ("square", {"n_queries": 3})],
)
def test_another_seed_starts_elsewhere(name: str, options: dict[str, float]) -> None:
    model, images, labels = stubborn()
    first, other = (attack(name, model, images, labels, THREAT, seed=seed, **options) for seed in (0, 1))
    assert not torch.equal(first.adversarial, other.adversarial)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "cw", "apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square"])
def test_the_batch_size_changes_no_flag(name: str) -> None:
    model = linear(10)
    images, labels = data_of(model)
    results = [
        attack(name, model, images, labels, THREAT, batch_size=size, **QUICK.get(name, {})) for size in (7, 1000)
    ]
    assert torch.equal(results[0].robust, results[1].robust)
    if name != "apgd-t":  # A large batch begins with targets whose images fall to a likelier one.
        assert results[0].backwards == results[1].backwards
    if name != "fab-t":
        torch.testing.assert_close(results[0].adversarial, results[1].adversarial, rtol=0, atol=1e-5)


def test_the_headline_is_the_worst_case_and_every_stage_takes_the_survivors() -> None:
    model = linear(10, seed=4)
    images, labels = data_of(model)
    told: list[tuple[str, float]] = []
    results = headline(
        model, images, labels, THREAT, square_queries=50, steps=5, batch_size=16, progress=lambda *a: told.append(a)
    )
    assert list(results) == ["apgd-ce", "apgd-t", "square"]
    ce, targeted, square = results.values()
    assert torch.equal(ce.robust, attack("apgd-ce", model, images, labels, THREAT, steps=5).robust)
    assert (ce.robust >= targeted.robust).all()
    assert (targeted.robust >= square.robust).all()
    assert targeted.robust.sum() < ce.robust.sum()  # the second stage had something to do
    for name in OURS:
        if name != "autoattack":
            alone = attack(
                name, model, images, labels, THREAT, **QUICK.get(name, {}) | ({"steps": 5} if "t" in name[-2:] else {})
            )
            assert square.robust.sum() <= alone.robust.sum(), name
    fooled = ~ce.robust
    assert torch.equal(targeted.adversarial[fooled], ce.adversarial[fooled])
    assert torch.equal(square.adversarial[~targeted.robust], targeted.adversarial[~targeted.robust])
    assert torch.equal(ce.adversarial[:6], images[:6])
    assert ce.forwards == 60 + 54 * 6 + 54
    assert targeted.backwards <= int(ce.robust.sum()) * 9 * 6
    assert square.forwards <= int(targeted.robust.sum()) * 52
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1


def test_failed_tries_are_kept_at_their_best_and_not_at_the_clean_image() -> None:
    model, images, labels = stubborn()
    for name in ("apgd-ce", "apgd-t", "square"):
        result = attack(name, model, images, labels, THREAT, **QUICK[name])
        assert result.robust.all()
        assert ((result.adversarial - images).abs() > 0.01).any(), name
    before, after = (
        torch.nn.functional.cross_entropy(model(points), labels)
        for points in (images, attack("apgd-ce", model, images, labels, THREAT).adversarial)
    )
    assert after > before


def test_of_several_targets_the_likeliest_gives_the_best_try() -> None:
    model, images, labels = stubborn()
    one, three = (attack("apgd-t", model, images, labels, THREAT, steps=5, n_targets=count) for count in (1, 3))
    assert three.robust.all()
    assert torch.equal(one.adversarial, three.adversarial)


def test_points_the_model_gets_wrong_cost_an_attack_nothing() -> None:
    model = linear(4)
    images, labels = data_of(model, wrong=60)
    result = attack("autoattack", model, images, labels, THREAT)
    assert (result.forwards, result.backwards) == (60, 0)
    assert not result.robust.any()
    assert torch.equal(result.adversarial, images)


SLOW = {
    "OnePixel": {"steps": 2, "popsize": 3},
    "SparseFool": {"steps": 2},
    "JSMA": {"gamma": 0.05},
    "SPSA": {"nb_sample": 4},
}
SLOW |= {"EADL1": {"max_iterations": 10}, "EADEN": {"max_iterations": 10}, "Pixle": {"restarts": 2}}
SLOW |= {"DeepFool": {"steps": 5}, "PGDRS": {"noise_batch_size": 2}}


@pytest.mark.parametrize("name", [name for name in names() if name not in OURS])
def test_every_other_class_of_torchattacks_runs_by_its_name(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    images = torch.rand(3, 3, 8, 8)
    labels = model(images).argmax(1)
    result = attack(name, model, images, labels, THREAT, **SLOW.get(name, {}))
    assert (result.adversarial - images).abs().max() <= 0.02 + 1e-6
    assert torch.equal(result.robust, model(result.adversarial).argmax(1) == labels)


def test_the_classes_we_repair_are_reached_by_torchattacks_names_too() -> None:
    model, images, labels = stubborn()
    assert attack("APGD", model, images, labels, THREAT).backwards == 2 * 101
    assert "AutoAttack" not in names()


# The loop of training --------------------------------------------------------------------------------------------


def test_pgd_leaves_no_trace_on_the_model(small: tuple[Small, Tensor, Tensor]) -> None:
    model, images, labels = small
    model.convolution.bias.requires_grad_(False)
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    state = torch.get_rng_state()
    with torch.no_grad():
        points = pgd(model, images, labels, THREAT, generator=torch.Generator().manual_seed(0))
    assert not points.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
    assert torch.equal(torch.get_rng_state(), state)
    model.fails_at = model.calls + 2
    with pytest.raises(RuntimeError, match="the model broke"):
        pgd(model, images, labels, THREAT, generator=torch.Generator())
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable


def test_pgd_climbs_the_loss_it_is_given_within_the_ball(small: tuple[Small, Tensor, Tensor]) -> None:
    model, images, labels = small

    def first_logit(logits: Tensor) -> Tensor:
        return logits[:, 0].sum()

    generator = torch.Generator().manual_seed(0)
    points = pgd(model, images, labels, THREAT, generator=generator, loss=first_logit)
    assert (model(points)[:, 0] > model(images)[:, 0]).all()
    assert (points - images).abs().max() <= 0.02 + 1e-7
    start = pgd(model, images, labels, THREAT, generator=generator, steps=0)
    assert 0.018 < (start - images).max() <= 0.02 + 1e-7
    assert -0.02 - 1e-7 <= (start - images).min() < -0.018
    assert model.calls == 10 + 2


def test_pgd_noise_depends_on_the_generator_alone(small: tuple[Small, Tensor, Tensor]) -> None:
    model, images, labels = small
    whole, again = (
        pgd(model, images, labels, THREAT, generator=torch.Generator().manual_seed(5), steps=0) for _ in "12"
    )
    assert torch.equal(whole, again)
    channels_last = pgd(
        model,
        images.contiguous(memory_format=torch.channels_last),
        labels,
        THREAT,
        generator=torch.Generator().manual_seed(5),
        steps=0,
    )
    assert torch.equal(whole, channels_last)
    generator = torch.Generator().manual_seed(5)
    halves = [
        pgd(model, images[part], labels[part], THREAT, generator=generator, steps=0)
        for part in (slice(6), slice(6, 12))
    ]
    assert torch.equal(whole, torch.cat(halves))


def test_pgd_keeps_layout_and_precision_of_the_images(small: tuple[Small, Tensor, Tensor]) -> None:
    model, images, labels = small
    images = images.contiguous(memory_format=torch.channels_last)
    points = pgd(model, images, labels, THREAT, generator=torch.Generator(), dtype=torch.bfloat16)
    assert points.dtype == torch.float32
    assert points.is_contiguous(memory_format=torch.channels_last)
    seen: list[torch.dtype] = []

    def noted(logits: Tensor) -> Tensor:
        seen.append(logits.dtype)
        return logits.sum()

    pgd(model, images, labels, THREAT, generator=torch.Generator(), dtype=torch.bfloat16, loss=noted, steps=1)
    assert seen == [torch.float32]
    precise = pgd(model, images, labels, THREAT, generator=torch.Generator())
    assert (points == precise).float().mean() > 0.9


def test_pgd_follows_gradients_that_a_mean_over_the_batch_would_lose() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    model[1].weight.data = torch.tensor([[0.0], [-1.0]])
    model[1].bias.data = torch.tensor([86.0, 0.0])  # so sure of class 0 that its gradient is 3e-38
    images, labels = torch.full((8, 1, 1, 1), 0.5), torch.zeros(8, dtype=torch.long)
    torch.set_flush_denormal(True)
    try:
        points = pgd(model, images, labels, THREAT, generator=torch.Generator(), random_start=False)
    finally:
        torch.set_flush_denormal(False)
    torch.testing.assert_close(points, images - 0.02)
