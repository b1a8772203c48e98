"""torchvision's networks as families: its published counts, its state dicts, its function; rows, students and files."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rcnas_edge.cost.counting import cost_of
from rcnas_edge.data import load_dataset
from rcnas_edge.errors import InputError
from rcnas_edge.export import exporter
from rcnas_edge.measure import graph_of, runtime_here
from rcnas_edge.measure.planning import plan
from rcnas_edge.measure.specimen import difference, specimen
from rcnas_edge.measure.timing import open_session
from rcnas_edge.nets import families, family
from rcnas_edge.nets.mobilenet_rows import divisible
from rcnas_edge.nets.rows import RowWriter
from rcnas_edge.profile import Target
from rcnas_edge.profile.fusion import fuse, kernels
from rcnas_edge.profile.table import interpolate
from rcnas_edge.space import IMAGE, Architecture, Layer, from_named, named
from rcnas_edge.teacher import open_teacher


@dataclass(frozen=True)
class Published:
    """A network of torchvision: our names for it, its factory, and the counts in the meta of its weights."""

    family: str
    name: str
    factory: str
    parameters: int
    giga_macs: float


NETWORKS = [
    Published("resnet", "resnet-18", "resnet18", 11_689_512, 1.814),
    Published("resnet", "resnet-34", "resnet34", 21_797_672, 3.664),
    Published("resnet", "resnet-50", "resnet50", 25_557_032, 4.089),
    Published("mobilenet", "mobilenet-v2", "mobilenet_v2", 3_504_872, 0.301),
]
SMALL = [network for network in NETWORKS if network.name != "resnet-34"]
published = pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
small = pytest.mark.parametrize("network", SMALL, ids=lambda network: network.name)


def config_of(
    network: Published, image: tuple[int, int, int] = (3, 32, 32), classes: int = 10, suffix: str = ""
) -> Any:
    """A configuration whose normalisation of pixels changes nothing, so that torchvision's network is its equal."""
    frame = {"mean": (0.0,) * image[0], "std": (1.0,) * image[0]}
    return family(network.family).network(network.name + suffix, image=image, classes=classes, **frame)


def scaled(network: Published, image: tuple[int, int, int] = (3, 32, 32), **ratios: float) -> Any:
    """A student: every gene of this name (depth, width) at this ratio, all others at the base's."""
    space = family(network.family).space(config_of(network, image))
    options = {gene.name: ratios.get(gene.name.split(".")[-1], gene.options[0]) for gene in space.genes}
    return space.config(from_named(space.genes, options))


def students(network: Published, count: int, image: tuple[int, int, int] = (3, 32, 32)) -> list[Any]:
    """Random networks of the space."""
    space = family(network.family).space(config_of(network, image))
    generator = random.Random(0)
    picks = [tuple(generator.randrange(len(gene.options)) for gene in space.genes) for _ in range(count)]
    return [space.config(Architecture(pick)) for pick in picks]


def lively(model: nn.Module) -> nn.Module:
    """Give the normalisations statistics, scales and shifts that matter, and leave training mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.1)
    return model.eval()


def built(config: Any, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return lively(kind_of(config).build(config))


def kind_of(config: Any) -> Any:
    return family(config.name.split("-")[0].split(" ")[0])


def images(config: Any, count: int = 2) -> torch.Tensor:
    return torch.rand(count, *config.image, generator=torch.Generator().manual_seed(0))


def layers_seen(model: nn.Module, image: tuple[int, int, int]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Input and output shapes of the leaf modules that hold weights, by path."""
    seen = {}

    def record(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            shapes = tuple(inputs[0].shape[1:]), tuple(output.shape[1:])
            seen[name] = tuple(shape if len(shape) == 3 else (*shape, 1, 1) for shape in shapes)

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    handles = [
        module.register_forward_hook(record(name))
        for name, module in leaves
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.MaxPool2d)
    ]
    with torch.no_grad():
        model.eval()(torch.zeros(1, *image, device=next(model.parameters()).device))
    for handle in handles:
        handle.remove()
    return seen


# torchvision's networks


@published
def test_counts_are_those_that_torchvision_publishes(network: Published) -> None:
    rows = family(network.family).layers(config_of(network, (3, 224, 224), 1000))
    cost = cost_of(rows, None, Target())
    assert cost.params == network.parameters
    assert round(cost.macs / 1e9, 3) == network.giga_macs
    weights = torchvision.models.get_model_weights(network.factory).DEFAULT
    assert (weights.meta["num_params"], weights.meta["_ops"]) == (network.parameters, network.giga_macs)


@published
def test_torchvisions_state_dict_gives_torchvisions_function(network: Published) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = lively(torchvision.models.get_model(network.factory, num_classes=7))
    config = config_of(network, (3, 64, 64), classes=7)
    assert (config.stem, config.name) == ("imagenet", network.name)
    ours = kind_of(config).build(config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(ours(images(config)), theirs(images(config)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("multiplier", [0.3, 0.35, 0.5, 0.6, 0.75, 1.3, 1.4])
def test_a_mobilenet_of_any_width_is_torchvisions(multiplier: float) -> None:
    config = config_of(Published("mobilenet", f"mobilenet-v2-{multiplier}", "mobilenet_v2", 0, 0), (3, 64, 64))
    with torch.device("meta"):
        theirs = torchvision.models.mobilenet_v2(num_classes=10, width_mult=multiplier)
        ours = kind_of(config).build(config)
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (theirs, ours)]
    assert shapes[0] == shapes[1]
    residual = [[block.use_res_connect for block in model.features[1:-1]] for model in (theirs, ours)]
    assert residual[0] == residual[1]


def test_channels_are_rounded_as_torchvision_rounds() -> None:
    from torchvision.models._utils import _make_divisible

    assert [divisible(channels / 4) for channels in range(1, 2000)] == [
        _make_divisible(channels / 4, 8) for channels in range(1, 2000)
    ]


# rows against the built network


@pytest.mark.parametrize("image", [(3, 32, 32), (1, 8, 8), (3, 67, 71)], ids=str)
@small
def test_every_row_is_the_layer_of_that_name(network: Published, image: tuple[int, int, int]) -> None:
    for config in (config_of(network, image), *students(network, 2, image)):
        rows = kind_of(config).layers(config)
        with torch.device("meta"):
            model = kind_of(config).build(config)
            with FlopCounterMode(display=False) as counter:
                seen = layers_seen(model, config.image)
        weighty = ("conv", "linear", "batchnorm", "maxpool")
        assert {row.name: (row.inputs, row.output) for row in rows if row.kind in weighty} == seen
        assert sum(row.macs for row in rows) == counter.get_total_flops() // 2
        assert sum(row.parameters for row in rows) == sum(parameter.numel() for parameter in model.parameters())
        assert len({row.name for row in rows}) == len(rows)
        assert all(source < index for index, row in enumerate(rows) for source in row.reads)


@small
def test_a_stem_is_chosen_by_the_image_or_by_name(network: Published) -> None:
    assert [config_of(network, (3, size, size)).stem for size in (8, 63, 64)] == ["small", "small", "imagenet"]
    asked = config_of(network, (3, 32, 32), suffix="-imagenet")
    assert (asked.stem, asked.stem_stride, asked.name) == ("imagenet", 2, f"{network.name}-imagenet")
    assert config_of(network, (3, 224, 224), suffix="-small").name == f"{network.name}-small"
    last = {
        stem: kind_of(asked).layers(config_of(network, suffix=f"-{stem}"))[-3].output for stem in ("imagenet", "small")
    }
    assert {stem: shape[1:] for stem, shape in last.items()} == {"imagenet": (1, 1), "small": (4, 4)}


# spaces


@small
def test_ratio_one_is_the_base_itself(network: Published) -> None:
    base = config_of(network)
    space = family(network.family).space(base)
    first = Architecture((0,) * len(space.genes))
    assert space.config(first) == base
    assert base.name == network.name
    assert family(network.family).config(space.describe(first)) == base
    stages = {gene.group for gene in space.genes} - {"stem", "head"}
    for stage in stages:
        assert {f"{stage}.depth", f"{stage}.width"} <= set(named(space.genes, first))
    assert len(stages) == len(base.stages())


@small
def test_students_are_smaller_and_their_channels_are_whole_multiples(network: Published) -> None:
    base = config_of(network)
    for config in students(network, 50):
        assert all(width % 8 == 0 for width in config.widths)
        assert all(ours <= theirs for ours, theirs in zip(config.widths, base.widths, strict=True))
        assert all(1 <= ours <= theirs for ours, theirs in zip(config.depths, base.depths, strict=True))
        assert type(config).from_dict(config.to_dict()) == config
    assert scaled(network, width=0.5).widths == tuple(max(8, width // 2) for width in base.widths[:1]) + tuple(
        {12: 16, 80: 80}.get(width // 2, width // 2) for width in base.widths[1:]
    )
    assert scaled(network, depth=0.5).depths == tuple(max(1, round(depth / 2)) for depth in base.depths)


# inherited weights


@small
def test_a_student_of_full_size_inherits_the_whole_parent(network: Published) -> None:
    config = scaled(network, width=0.5)
    parent, student = built(config, 1), built(config, 2)
    assert kind_of(config).inherit(student, config, parent, config) == 1.0
    with torch.no_grad():
        torch.testing.assert_close(student(images(config)), parent(images(config)), rtol=0, atol=0)


def silence(norm: nn.BatchNorm2d, conv: nn.Conv2d, channels: torch.Tensor) -> None:
    """Make channels of a convolution and its normalisation exactly zero."""
    conv.weight[channels] = 0
    norm.weight[channels] = 0
    norm.bias[channels] = 0


@torch.no_grad()
def silence_resnet(parent: nn.Module, config: Any) -> None:
    """Leave only as many channels of every stream and every inner layer as the student has."""
    generator = torch.Generator().manual_seed(3)

    def drawn(total: int, kept: int) -> torch.Tensor:
        return torch.randperm(total, generator=generator)[kept:]

    stem = drawn(parent.conv1.out_channels, config.widths[0])
    silence(parent.bn1, parent.conv1, stem)
    for stage, blocks in enumerate(parent.stages):
        joined = stage == 0 and blocks[0].downsample is None
        out = stem if joined else drawn(parent.config.channels[stage], config.channels[stage])
        for block in blocks:
            pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
            pairs += [(block.conv3, block.bn3)] if hasattr(block, "conv3") else []
            for conv, norm in pairs[:-1]:
                silence(norm, conv, drawn(conv.out_channels, config.widths[stage]))
            silence(pairs[-1][1], pairs[-1][0], out)
            if block.downsample is not None:
                silence(block.downsample[1], block.downsample[0], out)


@torch.no_grad()
def silence_mobilenet(parent: nn.Module, config: Any) -> None:
    """Leave only as many channels of every stream and every hidden layer as the student has."""
    generator = torch.Generator().manual_seed(3)

    def drawn(total: int, kept: int) -> torch.Tensor:
        return torch.randperm(total, generator=generator)[kept:]

    silence(parent.features[0][1], parent.features[0][0], drawn(parent.config.stem_channels, config.stem_channels))
    inputs = config.stem_channels
    for stage, blocks in enumerate(parent.stages):
        out = drawn(parent.config.widths[stage], config.widths[stage])
        for block in blocks:
            *expansion, depthwise, projection, norm = block.conv
            if expansion:
                hidden = drawn(depthwise[0].out_channels, inputs * config.expansions[stage])
                silence(expansion[0][1], expansion[0][0], hidden)
                silence(depthwise[1], depthwise[0], hidden)
            else:  # the stem's silent channels pass through: their shifts must be silent too
                gone = (parent.features[0][1].weight == 0).nonzero().flatten()
                silence(depthwise[1], depthwise[0], gone)
            silence(norm, projection, out)
            inputs = config.widths[stage]
    head = parent.features[-1]
    silence(head[1], head[0], drawn(parent.config.head_channels, config.head_channels))


@small
def test_importance_order_keeps_the_function_when_the_rest_is_zero(network: Published) -> None:
    config, base = scaled(network, (3, 16, 16), width=0.6), config_of(network, (3, 16, 16))
    parent, student = built(base, 1), built(config, 2)
    {"resnet": silence_resnet, "mobilenet": silence_mobilenet}[network.family](parent, config)
    assert kind_of(config).inherit(student, config, parent, base) == 1.0
    with torch.no_grad():
        expected = parent(images(config))
        assert expected.std() > 1e-3
        torch.testing.assert_close(
            student(images(config)), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
        )


@small
def test_every_student_inherits_all_that_it_has(network: Published) -> None:
    base = config_of(network, (3, 8, 8))
    parent = built(base, 1)
    for config in students(network, 3, (3, 8, 8)):
        student = built(config, 2)
        assert kind_of(config).inherit(student, config, parent, base) == 1.0
        assert student(images(config)).isfinite().all()


def test_a_stem_of_another_kind_starts_fresh() -> None:
    ours, theirs = config_of(NETWORKS[0]), config_of(NETWORKS[0], suffix="-imagenet")
    student, parent = built(ours, 2), built(theirs, 1)
    fresh = student.conv1.weight.clone()
    assert 0.99 < kind_of(ours).inherit(student, ours, parent, theirs) < 1.0
    assert torch.equal(student.conv1.weight, fresh)


# files and their latency


@small
def test_an_exported_student_answers_as_the_network_does(network: Published, tmp_path: Path) -> None:
    config = scaled(network, (3, 16, 16), width=0.3, depth=0.3)
    model = built(config)
    onnx_files = exporter("onnx")
    artefact = onnx_files.export(model, tmp_path / "model.onnx", image=config.image, metadata={})
    with torch.no_grad():
        expected = model(images(config, 3)).numpy()
    np.testing.assert_allclose(onnx_files.predict(artefact)(images(config, 3).numpy()), expected, rtol=1e-3, atol=1e-4)
    # what the file takes is foreseen from the rows, and its operators are those of the graph that latency is timed on
    assert cost_of(kind_of(config).layers(config), None, Target()).size == pytest.approx(artefact.bytes, rel=0.05)
    exported = Counter(node.op_type for node in onnx.load(str(artefact.path)).graph.node)
    ours = Counter(node.op_type for node in graph_of(kind_of(config).layers(config)).graph.node)
    ours["Identity"] -= 1  # it only names the output
    assert +ours == exported


OPERATIONS = {
    "Conv": "conv",
    "FusedConv": "conv",
    "ReorderInput": "to_blocked",
    "ReorderOutput": "to_plain",
    "Gemm": "linear",
    "FusedGemm": "linear",
    "MaxPool": "maxpool",
    "ReduceMean": "globalpool",
    "Add": "add",
    "Relu": "relu",
    "Clip": "relu6",
    "Sigmoid": "sigmoid",
    "Sub": "normalize",
    "BatchNormalization": "batchnorm",
}


def run_by_runtime(layers: tuple[Layer, ...], folder: Path) -> Counter[str]:
    """The operations in the graph that the runtime of this machine makes of the rows; normalize is a Sub and a Div."""
    optimised = folder / "optimised.onnx"
    open_session(graph_of(layers).SerializeToString(), 1, optimised=optimised)
    nodes = onnx.load(str(optimised)).graph.node
    return Counter(OPERATIONS[node.op_type] for node in nodes if node.op_type not in ("Div", "Reshape"))


def run_by_profile(layers: tuple[Layer, ...]) -> Counter[str]:
    """The same by `fusion`; a blocked normalisation is run as a depthwise convolution."""
    return Counter(
        "conv" if kernel[:2] == ("batchnorm", "blocked") else kernel[0] for kernel, _ in kernels(layers, runtime_here())
    )


@pytest.mark.parametrize("size", [8, 64])
@small
def test_fusion_is_what_the_runtime_does(network: Published, size: int, tmp_path: Path) -> None:
    for config in students(network, 3, (3, size, size)):
        layers = kind_of(config).layers(config)
        assert run_by_profile(layers) == run_by_runtime(layers, tmp_path), config.name


def test_normalisation_activation_and_sum_are_part_of_the_convolution() -> None:
    for network, fused in ((NETWORKS[0], ("batchnorm", "add", "relu")), (NETWORKS[3], ("batchnorm", "relu6"))):
        groups = fuse(family(network.family).layers(config_of(network)), "onnxruntime-nchwc16")
        assert fused in {group.fused for group in groups}
        assert {group.key.operation for group in groups} == {"normalize", "conv", "to_plain", "globalpool", "linear"}


@pytest.mark.parametrize("after", ["add", "sigmoid", "linear", "batchnorm"])
def test_a_clip_that_no_convolution_takes_is_plain(after: str, tmp_path: Path) -> None:
    write = RowWriter((3, 8, 8))
    start = write.elementwise("relu", "relu", write.convolution("conv", IMAGE, 32, kernel=3))
    if after == "add":
        out = write.elementwise("add", "add", write.convolution("conv2", start, 32, kernel=3), start)
    elif after == "linear":
        out = write.linear("linear", write.global_pool("pool", start), 16, bias=True)
    else:
        out = write.elementwise(after, after, start)
    out = write.elementwise("clip", "relu6", out)
    if after != "linear":
        out = write.global_pool("last", write.convolution("conv3", out, 32, kernel=3))
    write.linear("classifier", out, 4, bias=True)
    assert run_by_profile(tuple(write.rows)) == run_by_runtime(tuple(write.rows), tmp_path)


@pytest.mark.parametrize("size", [8, 64])
@small
def test_every_kernel_of_a_student_can_be_measured(network: Published, size: int, tmp_path: Path) -> None:
    """Each is inside the grid, and each kind has a specimen that runs as counted; helpers and single pixels too."""
    runtime = runtime_here()
    needed = [
        kernel
        for config in students(network, 8, (3, size, size))
        for kernel, _ in kernels(kind_of(config).layers(config), runtime)
    ]
    planned: dict[tuple, dict[tuple[int, int], float]] = {}
    for kernel in plan(needed, {}, runtime):
        planned.setdefault(kernel[:7], {})[kernel[7:]] = 1.0
    assert all(interpolate(planned[kernel[:7]], *kernel[7:]) is not None for kernel in needed)
    waiting, kinds = list(needed), {}
    while waiting:
        kernel = waiting.pop()
        kind = (*kernel[:5], kernel[5] == 1)
        if kind not in kinds:
            kinds[kind] = kernel
            waiting += [helper for helper in difference(kernel, 1, 2, runtime) if helper != kernel]
    for kernel in kinds.values():
        assert difference(kernel, 1, 3, runtime)[kernel] == 2, kernel
        assert run_by_profile(specimen(kernel, 3)) == run_by_runtime(specimen(kernel, 3), tmp_path), kernel


# by name


def test_the_families_are_registered() -> None:
    assert {kind.name for kind in families()} >= {"wrn", "resnet", "mobilenet"}


@pytest.mark.parametrize("kind", families(), ids=lambda kind: kind.name)
def test_a_family_names_its_networks_and_builds_its_default(kind: Any) -> None:
    frame = {"image": (1, 8, 8), "classes": 10, "mean": (0.3,), "std": (0.4,)}
    config = kind.network(kind.default_network, **frame)
    assert config.name == kind.default_network
    assert family(kind.name) is kind
    with pytest.raises(InputError, match=kind.networks.split(" ")[0].strip(",")):
        kind.network("vgg-16", **frame)
    with torch.device("meta"):
        assert kind.build(config)(torch.zeros(2, 1, 8, 8, device="meta")).shape == (2, 10)


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("resnet", "resnet-19", r"resnet-18, -34, -50, -101, -152, .* got 'resnet-19'"),
        ("resnet", "resnet-18-huge", "-imagenet or -small"),
        ("mobilenet", "mobilenet-v3", r"mobilenet-v2, mobilenet-v2-W .* got 'mobilenet-v3'"),
        ("mobilenet", "mobilenet-v2-0.1", r"at least 0\.3 times"),
    ],
)
def test_an_unknown_network_is_one_sentence(kind: str, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        family(kind).network(name, image=(3, 32, 32), classes=10, mean=(0.5,) * 3, std=(0.2,) * 3)


@small
def test_a_configuration_says_what_is_wrong(network: Published) -> None:
    values = config_of(network).to_dict()
    kind = family(network.family)
    for change, words in [
        ({"colour": 1}, "also colour"),
        ({"depths": [1, 2]}, "stages, got depths"),
        ({"stem": "wide"}, "imagenet, small, got 'wide'"),
        ({"widths": [0] * len(values["widths"])}, "at least 1"),
        ({"classes": 1}, "two classes"),
        ({"std": [0.0, 1.0, 1.0]}, "one value per channel"),
    ]:
        with pytest.raises(InputError, match=words):
            kind.config({**values, **change})


# as teachers


@pytest.fixture(scope="module")
def digits() -> Any:
    return load_dataset("digits", subset=100)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_network_by_name_is_a_teacher(digits: Any, tmp_path: Path, suffix: str) -> None:
    from safetensors.torch import save_file

    frame = {"image": digits.image, "classes": digits.classes, "mean": digits.mean, "std": digits.std}
    state = built(family("mobilenet").network("mobilenet-v2-0.35", **frame)).state_dict()
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    teacher = open_teacher("mobilenet-v2-0.35", str(path), digits)
    assert (teacher.family, teacher.name, teacher.config.mean) == ("mobilenet", "mobilenet-v2-0.35", digits.mean)
    assert teacher.layers == family("mobilenet").layers(teacher.config)
    assert not teacher.model.training
    assert torch.equal(teacher.model.state_dict()["features.0.0.weight"], state["features.0.0.weight"])


def test_a_wrn_by_name_is_a_teacher_and_colours_are_normalised_as_published(tmp_path: Path, monkeypatch: Any) -> None:
    from rcnas_edge import teacher as opened

    colours = type("Colours", (), {"image": (3, 32, 32), "classes": 10, "mean": (0.1,) * 3, "std": (0.2,) * 3})
    monkeypatch.setattr(opened, "_try", lambda teacher, data: None)
    for name, mean in (("wrn-10-1", (0.1,) * 3), ("mobilenet-v2-0.35", (0.485, 0.456, 0.406))):
        kind = family(name.split("-")[0])
        config = kind.network(name, image=(3, 32, 32), classes=10, mean=(0.0,) * 3, std=(1.0,) * 3)
        torch.save(kind.build(config).state_dict(), tmp_path / "weights.pt")
        teacher = open_teacher(name, str(tmp_path / "weights.pt"), colours)
        assert (teacher.family, teacher.config.mean) == (kind.name, mean)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet-18", "needs --weights FILE .* rcnas-edge teacher --family resnet --network resnet-18"),
        ("resnet-20", "resnet-18, -34"),
        ("vgg-16", r"resnet-18, -34.*wrn-d-w.*'vgg-16' is none of them"),
    ],
)
def test_a_teacher_that_cannot_be_is_one_sentence(digits: Any, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_teacher(name, None, digits)


def test_weights_of_another_number_of_classes_are_refused(digits: Any, tmp_path: Path) -> None:
    frame = {"image": digits.image, "mean": digits.mean, "std": digits.std}
    model = family("mobilenet").build(family("mobilenet").network("mobilenet-v2-0.35", classes=9, **frame))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"must fit the network.*classifier\.1"):
        open_teacher("mobilenet-v2-0.35", str(tmp_path / "weights.pt"), digits)


def own() -> nn.Module:
    """A classifier of the user's own: torchvision's module behind a layer that makes colours of grey."""
    return nn.Sequential(nn.Conv2d(1, 3, 1), torchvision.models.resnet18(num_classes=10))


def test_torchvisions_own_module_is_a_teacher_of_no_family(digits: Any, tmp_path: Path) -> None:
    torch.save(own().state_dict(), tmp_path / "own.pt")
    teacher = open_teacher("tests.test_torchvision_families:own", str(tmp_path / "own.pt"), digits)
    assert (teacher.family, teacher.config, teacher.layers) == (None, None, None)
