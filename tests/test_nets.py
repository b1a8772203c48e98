"""Wide residual networks: published counts from the rows and from the built network, and weights that are inherited."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from rcnas_edge.errors import InputError
from rcnas_edge.nets import family
from rcnas_edge.nets.wrn_rows import WrnConfig, network, rows
from rcnas_edge.nets.wrn_space import wrn_space
from rcnas_edge.space import Architecture

CIFAR = {"image": (3, 32, 32), "classes": 10, "mean": (0.49, 0.48, 0.45), "std": (0.25, 0.24, 0.26)}
DIGITS = {"image": (1, 8, 8), "classes": 10, "mean": (0.3,), "std": (0.4,)}
# name, parameters in M, MACs in G at 32x32: Huang et al., CVPR 2023, and counted
PUBLISHED = [
    ("wrn-28-10", "36.48", "5.243"),
    ("wrn-34-12", "66.46", "9.582"),
    ("wrn-46-14", "128.39", "18.585"),
    ("wrn-70-16", "266.80", "38.764"),
    ("robustresnet-a1", "19.22", "5.080"),
    ("robustresnet-a2", "39.03", "10.739"),
    ("robustresnet-a3", "75.86", "19.820"),
    ("robustresnet-a4", "147.26", "39.273"),
]
SMALL = [
    replace(network("wrn-16-2", **DIGITS), robust=flags, widths=widths, depths=depths)
    for flags, widths, depths in [
        ((False, False, False), (32, 64, 128), (2, 2, 2)),
        ((True, True, True), (32, 48, 96), (2, 1, 2)),
        ((False, True, False), (24, 64, 16), (1, 2, 2)),
    ]
]


def layers_seen(model: nn.Module, image: tuple[int, int, int]) -> dict[str, tuple[tuple, tuple]]:
    """Input and output shapes of every leaf module of the built network, by path: the oracle for the rows."""
    seen = {}

    def record(name):
        def hook(module, inputs, output):
            seen[name] = (tuple(inputs[0].shape[1:]), tuple(output.shape[1:]))

        return hook

    handles = [
        module.register_forward_hook(record(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d)
    ]
    with torch.no_grad():
        model.eval()(torch.zeros(1, *image, device=next(model.parameters()).device))
    for handle in handles:
        handle.remove()
    return seen


def macs_of(model: nn.Module, seen: dict) -> int:
    modules = dict(model.named_modules())
    return sum(
        modules[name].weight[0].numel() * torch.Size(output).numel()
        for name, (_, output) in seen.items()
        if isinstance(modules[name], nn.Conv2d | nn.Linear)
    )


@pytest.mark.parametrize(("name", "parameters", "macs"), PUBLISHED)
def test_published_counts_from_rows_and_from_the_built_network(name, parameters, macs):
    config = network(name, **CIFAR)
    layers = rows(config)
    assert f"{sum(row.parameters for row in layers) / 1e6:.2f}" == parameters
    assert f"{sum(row.macs for row in layers) / 1e9:.3f}" == macs
    with torch.device("meta"):
        model = family("wrn").build(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(row.parameters for row in layers)
    assert macs_of(model, layers_seen(model, config.image)) == sum(row.macs for row in layers)


def test_four_times_the_macs_at_64_pixels():
    large = rows(network("wrn-28-10", **{**CIFAR, "image": (3, 64, 64)}))
    small = rows(network("wrn-28-10", **CIFAR))
    linear = small[-1].macs
    assert sum(row.macs for row in large) - linear == 4 * (sum(row.macs for row in small) - linear)


@pytest.mark.parametrize("config", SMALL, ids=lambda config: config.name)
def test_every_row_is_the_layer_of_that_name(config):
    model = family("wrn").build(config)
    seen = layers_seen(model, config.image)
    described = {
        row.name: (row.inputs, row.output) for row in rows(config) if row.kind in ("conv", "linear", "batchnorm")
    }
    flat = {
        name: (inputs, output) if len(inputs) == 3 else ((*inputs, 1, 1), (*output, 1, 1))
        for name, (inputs, output) in seen.items()
    }
    assert described == flat
    assert all(source < index for index, row in enumerate(rows(config)) for source in row.reads)


def test_odd_resolutions_have_true_shapes():
    config = replace(SMALL[1], image=(1, 13, 11))
    model = family("wrn").build(config)
    described = {row.name: row.output for row in rows(config) if row.kind == "conv"}
    assert described == {name: out for name, (_, out) in layers_seen(model, config.image).items() if name in described}


def test_ratio_one_is_the_base_itself():
    base = network("wrn-16-2", **DIGITS)
    space = wrn_space(base)
    assert space.config(Architecture((0,) * len(space.genes))) == base
    assert base.name == "wrn-16-2"
    assert replace(base, widths=(8, 16, 32)).name == "wrn d2.2.2 w8.16.32 bbb"


@pytest.mark.parametrize("config", SMALL[:2], ids=lambda config: config.name)
def test_a_student_of_full_size_inherits_the_whole_parent(config):
    torch.manual_seed(0)
    wrn = family("wrn")
    parent, student = wrn.build(config).eval(), wrn.build(config).eval()
    assert wrn.inherit(student, config, parent, config) == 1.0
    images = torch.rand(2, *config.image)
    torch.testing.assert_close(student(images), parent(images), rtol=0, atol=0)


@pytest.mark.parametrize("robust", [False, True])
def test_a_slimmer_student_takes_whole_channels_of_its_parent(robust):
    torch.manual_seed(1)
    wrn = family("wrn")
    small = replace(SMALL[0], widths=(32, 32, 32), depths=(1, 1, 1), robust=(robust,) * 3)
    large = replace(small, widths=(64, 64, 64))
    student, parent = wrn.build(small), wrn.build(large)
    assert wrn.inherit(student, small, parent, large) == 1.0
    columns = {tuple(column.tolist()) for column in parent.classifier.weight.T}
    assert all(tuple(column.tolist()) in columns for column in student.classifier.weight.T)


def test_importance_order_keeps_the_function_when_the_rest_is_zero():
    torch.manual_seed(2)
    wrn = family("wrn")
    small = replace(SMALL[0], widths=(24, 24, 24), depths=(2, 1, 1))
    large = replace(small, widths=(32, 32, 32))
    parent, student = wrn.build(large).eval(), wrn.build(small).eval()
    with torch.no_grad():
        for stage in parent.stages:
            silent = torch.randperm(32)[:8]
            for block in stage:
                for conv in (block.conv1, block.conv2, block.shortcut):
                    if conv is not None:
                        conv.weight[silent] = 0
                block.norm2.bias.zero_()
            after = parent.norm if stage is parent.stages[-1] else None
            if after is not None:
                after.bias.zero_()
    assert wrn.inherit(student, small, parent, large) == 1.0
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(student(images), parent(images), rtol=1e-4, atol=1e-5)


def test_a_changed_kind_of_block_starts_fresh_and_the_rest_is_inherited():
    torch.manual_seed(3)
    wrn = family("wrn")
    parent_config = SMALL[0]
    student_config = replace(parent_config, robust=(False, False, True))
    share = wrn.inherit(wrn.build(student_config), student_config, wrn.build(parent_config), parent_config)
    assert 0.1 < share < 0.9


@pytest.mark.parametrize(("name", "words"), [("wrn-27-10", "6 n \\+ 4"), ("resnet", "wrn-d-w"), ("wrn-16-0", "w >= 1")])
def test_an_unknown_network_is_one_sentence(name, words):
    with pytest.raises(InputError, match=words):
        network(name, **CIFAR)


def test_configuration_survives_json():
    for config in SMALL:
        assert WrnConfig.from_dict(config.to_dict()) == config
    with pytest.raises(InputError, match="also colour"):
        WrnConfig.from_dict({**SMALL[0].to_dict(), "colour": 1})
