"""Losses, warm phases, weight perturbation, parts, processes: each against arithmetic or a plainer way to the same."""

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from test_train import CPU, THREAT, Tiny, quick
from torch import nn
from torch.nn import functional

from rcnas_edge.checkpoint import read_state
from rcnas_edge.cli import cli
from rcnas_edge.data import load_dataset
from rcnas_edge.errors import TrainingError
from rcnas_edge.train import compiling
from rcnas_edge.train import fit as fitting
from rcnas_edge.train.compiling import training_flops
from rcnas_edge.train.crafting import attack_of_epoch, craft
from rcnas_edge.train.fit import fit
from rcnas_edge.train.losses import inner_objective, training_loss
from rcnas_edge.train.recipe import RECIPES, recipe
from rcnas_edge.train.stepping import Stepper
from rcnas_edge.train.weights import perturbed

ADVERSARIAL, NATURAL = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[0.0, 1.0, 0.5]])
LABEL = torch.tensor([1])


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", subset=300)


def softmax(logits: torch.Tensor) -> torch.Tensor:
    return torch.exp(logits) / torch.exp(logits).sum()


def kl(target: torch.Tensor, other: torch.Tensor) -> float:
    return float((target * torch.log(target / other)).sum())


def test_trades_is_clean_cross_entropy_and_beta_times_the_divergence():
    near, far = softmax(NATURAL), softmax(ADVERSARIAL)
    expected = float(-torch.log(near[0, 1])) + 6 * kl(near, far)
    assert float(training_loss("trades", ADVERSARIAL, NATURAL, LABEL, None, beta=6.0)) == pytest.approx(expected)
    climbed = inner_objective("trades", LABEL, near)(ADVERSARIAL)
    assert float(climbed) == pytest.approx(kl(near, far), rel=1e-5)


def test_mart_boosts_cross_entropy_and_weighs_by_unsureness():
    near, far = softmax(NATURAL)[0], softmax(ADVERSARIAL)[0]
    boosted = -torch.log(far[1]) - torch.log(1 - far[0])  # class 0 is the largest other one
    expected = float(boosted) + 5 * kl(near, far) * (1 - float(near[1]))
    assert float(training_loss("mart", ADVERSARIAL, NATURAL, LABEL, None, beta=5.0)) == pytest.approx(
        expected, rel=1e-5
    )


def test_mart_stays_finite_where_another_class_is_certain():
    logits = torch.tensor([[100.0, 0.0]], requires_grad=True)
    loss = training_loss("mart", logits, torch.tensor([[0.0, 0.0]]), LABEL, None)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_n_fgsm_takes_one_unprojected_step_from_noise():
    """A linear network's gradient does not depend on the place, so the point is known exactly."""
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    images = torch.full((5, 1, 4, 4), 0.5)
    labels = torch.tensor([0, 1, 2, 0, 1])
    noise = torch.rand(images.shape) * 2 - 1
    threat = THREAT.parse("linf:0.1:10")
    probabilities = linear(images + 0.2 * noise).softmax(1).detach()
    slope = (probabilities - functional.one_hot(labels, 3)) @ linear[1].weight.detach()
    expected = images + 0.2 * noise + 0.1 * slope.view_as(images).sign()
    points = craft("n-fgsm", linear, images, labels, threat, noise, loss=inner_objective("pgd-at", labels, None))
    assert torch.allclose(points, expected, atol=1e-6)
    assert (points - images).abs().max() > 0.11  # outside the ball, as the paper wants it
    near = craft("pgd-2", linear, images, labels, threat, noise, loss=inner_objective("pgd-at", labels, None))
    assert (near - images).abs().max() <= 0.1 + 1e-6


def test_few_steps_of_pgd_still_reach_the_border():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    images, labels = torch.full((1, 1, 4, 4), 0.5), torch.tensor([0])
    objective = inner_objective("pgd-at", labels, None)
    start = torch.zeros_like(images)
    points = craft("pgd-2", linear, images, labels, THREAT, start, loss=objective, step_ratio=1 / 4)
    assert torch.allclose((points - images).abs(), torch.full_like(images, THREAT.epsilon), atol=1e-6)


def test_the_warm_attack_is_used_for_its_share_of_the_epochs(digits):
    fast = recipe("fast", epochs=3, batch_size=64, attack_steps=2)
    fitted = fit(Tiny(), digits, THREAT, fast)
    assert [epoch.attack for epoch in fitted.history] == ["n-fgsm", "n-fgsm", "pgd-2"]
    assert attack_of_epoch(fast, 0, warm=False) == "pgd-2"


def test_catastrophic_overfitting_ends_the_warm_phase(digits, monkeypatch, caplog, tmp_path):
    """The held-out accuracy collapses in epoch 3: back to the second one's weights, on with PGD; also resumed."""
    scripted = iter([(0.9, 0.4), (0.9, 0.5), (0.9, 0.1), (0.9, 0.45), (0.9, 0.46), (0.9, 0.47)])
    monkeypatch.setattr(fitting, "clean_and_robust", lambda *_, **__: next(scripted))
    warm = recipe("n-fgsm", epochs=6, batch_size=64, attack_steps=2)
    state = tmp_path / "state.safetensors"
    seen = {}

    class Killed(Exception):
        pass

    def note(epoch, _):
        seen[epoch.epoch] = epoch
        if epoch.epoch == 4 and len(seen) == 4:
            raise Killed

    with caplog.at_level(logging.WARNING), pytest.raises(Killed):
        fit(Tiny(), digits, THREAT, warm, state=state, progress=note)
    assert "catastrophic overfitting to n-fgsm" in caplog.text
    fitted = fit(Tiny(), digits, THREAT, warm, state=state)
    assert [epoch.attack for epoch in fitted.history] == ["n-fgsm"] * 3 + ["pgd-2"] * 3
    assert fitted.best_epoch == 2


def test_perturbed_weights_climb_by_gamma_and_come_back_to_the_bit():
    torch.manual_seed(0)
    model = Tiny()
    images, labels = torch.rand(32, 1, 8, 8), torch.randint(0, 10, (32,))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    loss = functional.cross_entropy(model(images), labels)
    loss.backward()
    with perturbed(model, 0.01):
        worse = functional.cross_entropy(model(images), labels)
        moved = {
            name: float((value.detach() - before[name]).norm() / before[name].norm())
            for name, value in model.named_parameters()
        }
    assert worse > loss
    assert moved["conv.weight"] == pytest.approx(0.01, rel=1e-3)
    assert moved["head.weight"] == pytest.approx(0.01, rel=1e-3)
    assert moved["norm.weight"] == 0  # vectors are left alone, as in the published code
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def step_of(model: nn.Module, **changes) -> Stepper:
    torch.manual_seed(3)
    images, labels = torch.rand(32, 1, 8, 8), torch.randint(0, 10, (32,))
    stepper = Stepper(model, None, recipe("trades", **changes), THREAT, CPU, compiled=changes.pop("compiled", False))
    stepper.take("pgd-3", images, labels, torch.rand_like(images) * 2 - 1, rate=0.1, whole=32)
    return stepper


class Plain(nn.Sequential):
    """Without batch normalisation, so that a batch is the sum of its parts."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))


def test_a_batch_in_parts_gives_the_gradient_of_the_whole():
    whole, parts = Plain(), Plain()
    step_of(whole)
    assert step_of(parts, accumulate=4).parts == 4
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(one, other, atol=2e-3)


class Hungry(Plain):
    """Runs out of memory at more than `room` images."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def forward(self, images):
        if len(images) > self.room:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return super().forward(images)


def test_out_of_memory_is_tried_once_more_in_smaller_parts(caplog):
    whole, hungry = Plain(), Hungry(room=16)
    step_of(whole)
    assert step_of(hungry).parts == 2
    assert "2 parts" in caplog.text
    for one, other in zip(whole.parameters(), hungry.parameters(), strict=True):
        assert torch.allclose(one, other, atol=2e-3)
    with pytest.raises(TrainingError, match="--batch-size"):
        step_of(Hungry(room=8))


def test_other_errors_of_a_network_are_not_taken_for_memory():
    class Broken(Plain):
        def forward(self, images):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        step_of(Broken())


WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch, torch.distributed as distributed
from test_recipes import NETWORKS, trained
torch.set_num_threads(1)
found = {{name: trained(kind, sys.argv[1] + "." + name) for name, kind in NETWORKS.items()}}
assert distributed.get_world_size() == 2
torch.save(found, sys.argv[1] + f".{{distributed.get_rank()}}")
"""


def trained(kind, state):
    """A network after a short training, its weights after the last epoch, and its held-out robust accuracy."""
    model, how = kind(), recipe("trades-awp", epochs=10, batch_size=64, attack_steps=2)
    fitted = fit(model, load_dataset("digits", subset=300), THREAT, how, state=Path(state))
    last = {name: value for name, value in read_state(Path(state))[0].items() if name.startswith("network.")}
    return model.state_dict(), last, fitted.best.robust


NETWORKS = {"plain": Plain, "normalised": Tiny}


@pytest.mark.slow
def test_two_processes_train_the_network_of_one(tmp_path):
    """torchrun's two processes end with equal weights and the accuracy of one; without batch norm with its weights too.

    With batch normalisation each process normalises its own half of a batch, so only the accuracy is comparable.
    """
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(tests=os.path.dirname(__file__)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    done = subprocess.run([*torchrun, str(script), str(tmp_path / "two")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"two.{rank}") for rank in range(2))
    for name, kind in NETWORKS.items():
        _, last, robust = trained(kind, tmp_path / name)
        for key, value in first[name][0].items():
            assert torch.equal(value, second[name][0][key]), key
        if name == "plain":
            for key, value in first[name][1].items():
                assert torch.allclose(value, last[key], atol=0.02), key
        assert abs(first[name][2] - robust) <= 0.05
        assert robust > 0.3


@pytest.mark.slow
def test_a_compiled_network_trains_the_same(digits):
    plain, compiled = Tiny(), Tiny()
    fit(plain, digits, THREAT, quick(1))
    fit(compiled, digits, THREAT, quick(1), compiled=True)
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        assert torch.allclose(one, other, atol=0.02)


def test_every_recipe_is_told_apart_by_its_values():
    values = [{**entry.to_dict(), "name": "", "source": ""} for entry in RECIPES.values()]
    assert all(one != other for index, one in enumerate(values) for other in values[:index])


def test_the_command_line_lists_every_recipe_with_its_source():
    listed = CliRunner().invoke(cli, ["train", "--list-recipes"])
    assert listed.exit_code == 0
    for name, entry in RECIPES.items():
        assert f"{name} " in listed.output
        assert entry.source in listed.output


def test_the_work_of_a_training_is_counted_pass_by_pass():
    """One convolution of 4 x 9 weights on 6 x 6 places and a linear layer: 4*9*36 + 144*10 MACs."""
    forward = 2 * (4 * 9 * 36 + 144 * 10)
    example = torch.zeros(1, 1, 8, 8)

    def counted(name, **changes):
        network = Plain()
        flops = training_flops(network, example, recipe(name, epochs=4, **changes), 100)
        assert network.training
        return flops

    assert counted("pgd-at", attack_steps=5) == forward * 100 * 4 * (2 * 5 + 3)
    assert counted("rslad", attack_steps=5) == forward * 100 * 4 * (2 * 5 + 6)
    assert counted("trades-awp", attack_steps=5) == forward * 100 * 4 * (2 * 5 + 12)
    warm = sum(
        epoch.startswith("n-fgsm") for epoch in (attack_of_epoch(recipe("fast", epochs=4), at) for at in range(4))
    )
    assert 0 < warm < 4
    assert counted("fast", attack_steps=5) == forward * 100 * (warm * (2 + 3) + (4 - warm) * (10 + 3))


class Aligned(Plain):
    """With as many channels as a convolution needs to be compiled."""

    def __init__(self) -> None:
        nn.Sequential.__init__(self, nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))


@pytest.mark.parametrize(
    ("kind", "threshold", "works", "compiled"),
    [(Aligned, 1.0, True, True), (Plain, 1.0, True, False), (Aligned, 1e18, True, False), (Aligned, 1.0, False, False)],
)
def test_a_long_training_of_whole_vectors_is_compiled_where_a_compiler_works(
    digits, monkeypatch, kind, threshold, works, compiled
):
    asked = []
    monkeypatch.setattr(compiling, "WORTHWHILE", threshold)
    monkeypatch.setattr(compiling, "compiler_works", lambda: works)
    monkeypatch.setattr(torch, "compile", lambda network: asked.append(network) or network)
    fit(kind(), digits, THREAT, quick(1))
    assert bool(asked) is compiled


def test_a_compiler_that_fails_is_noticed_once(monkeypatch):
    def broken(function):
        raise RuntimeError("no working C++ compiler")

    monkeypatch.setattr(torch, "compile", broken)
    compiling.compiler_works.cache_clear()
    assert compiling.compiler_works() is False
    compiling.compiler_works.cache_clear()
