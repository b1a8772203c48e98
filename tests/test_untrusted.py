"""ONNX files that are made to hurt: refused with one sentence, in little time and memory, nothing read or written."""

from __future__ import annotations

import itertools
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from fuzz_doubles import CLASSES, IMAGE, assert_sentence
from onnx import TensorProto, helper, numpy_helper

from rcnas_edge import modelfile
from rcnas_edge.cli import main
from rcnas_edge.deploy import load
from rcnas_edge.errors import InputError
from rcnas_edge.modelfile import check_model, read_model
from rcnas_edge.pipeline import trial
from rcnas_edge.pipeline.feed import Feed
from rcnas_edge.pipeline.foreign import open_file
from rcnas_edge.reimport import reimport

FLOAT = TensorProto.FLOAT


def model(
    nodes: list[onnx.NodeProto], *, functions: tuple[onnx.FunctionProto, ...] = (), **constants: np.ndarray
) -> onnx.ModelProto:
    """A graph from `image` to `logits`."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", FLOAT, ["N", *IMAGE])],
        [helper.make_tensor_value_info("logits", FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ours", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)


def linear(*before: onnx.NodeProto, added: str = "zero", **constants: np.ndarray) -> onnx.ModelProto:
    """A linear classifier that adds the constant or result `added` to its logits."""
    draw = np.random.default_rng(0)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
        *before,
        helper.make_node("Add", ["scores", added], ["logits"]),
    ]
    w = draw.normal(0, 0.3, (int(np.prod(IMAGE)), CLASSES)).astype(np.float32)
    return model(nodes, w=w, zero=np.zeros(1, np.float32), **constants)


def write(path: Path, proto: onnx.ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def opened(path: Path) -> None:
    open_file(path, Feed(), image=IMAGE, classes=CLASSES, data="pictures")


DOORS: dict[str, Callable[[Path], object]] = {"verify": opened, "deploy": load, "re-import": reimport}
"""Everything that opens an ONNX file."""


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    return DOORS[request.param]


def refused(door: Callable[[Path], object], path: Path) -> str:
    """The sentence, which comes quickly and before much memory is asked for."""
    started = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as error:
            door(path)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 5
    assert_sentence(str(error.value))
    assert path.name in str(error.value)
    return str(error.value)


def test_the_linear_one_is_good(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", linear())
    opened(path)
    trial.try_file(path, Feed(), image=IMAGE, classes=CLASSES, data="pictures")


# what no runtime gets to see


@pytest.mark.parametrize("size", [2_500_000_000, 400_000_000_000])
def test_a_huge_file_is_not_read(door, tmp_path, size):
    with open(tmp_path / "net.onnx", "wb") as file:
        file.truncate(size)
    assert f"at most 1000 MB, {tmp_path / 'net.onnx'} has {size // 10**6} MB" in refused(door, tmp_path / "net.onnx")


@pytest.mark.parametrize("kind", ["pipe", "endless"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    path = tmp_path / "net.onnx"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    for door in (opened, reimport):
        assert "a regular file" in refused(door, path)
    assert "is not there" in refused(load, path)


LOCATIONS = ["weights.bin", "../secret.bin", "/etc/passwd", "/dev/zero", ""]


@pytest.mark.parametrize("location", LOCATIONS)
def test_weights_elsewhere_are_not_looked_for(door, tmp_path, monkeypatch, location):
    (tmp_path / "inside").mkdir()
    for place in ("secret.bin", "inside/weights.bin"):
        (tmp_path / place).write_bytes(bytes(4 * 36 * CLASSES))
    monkeypatch.chdir(tmp_path / "inside")
    proto = linear()
    tensor = next(one for one in proto.graph.initializer if one.name == "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    assert "keeps 'w' in another file" in refused(door, write(tmp_path / "inside" / "net.onnx", proto))


@pytest.mark.parametrize("where", ["attribute", "function", "branch", "sparse"])
def test_weights_elsewhere_are_found_wherever_they_hide(door, tmp_path, where):
    hidden = TensorProto(name="hidden", dims=[1], data_type=FLOAT, data_location=TensorProto.EXTERNAL)
    hidden.external_data.add(key="location", value="/etc/passwd")
    constant = helper.make_node("Constant", [], ["c"], value=hidden)
    if where == "attribute":
        proto = linear(constant, added="c")
    elif where == "function":
        function = helper.make_function("ours", "Give", [], ["c"], [constant], [helper.make_opsetid("", 18)])
        proto = linear(helper.make_node("Give", [], ["d"], domain="ours"), added="d")
        proto.functions.append(function)
    elif where == "branch":
        graph = helper.make_graph([constant], "then", [], [helper.make_tensor_value_info("c", FLOAT, [1])])
        branch = helper.make_node("If", ["yes"], ["d"], then_branch=graph, else_branch=graph)
        proto = linear(branch, added="d", yes=np.array(True))
    else:
        proto = linear()
        proto.graph.sparse_initializer.add().values.CopyFrom(hidden)
    assert "keeps 'hidden' in another file" in refused(door, write(tmp_path / "net.onnx", proto))


@pytest.mark.parametrize("shape", [[2**40], [2**31, 2**31], [2**62, 4], [-1], [1, -(2**40)], [37, CLASSES]])
def test_a_tensor_claims_more_than_the_file_holds(door, tmp_path, shape):
    proto = linear()
    tensor = next(one for one in proto.graph.initializer if one.name == "w")
    del tensor.dims[:]
    tensor.dims.extend(shape)
    words = refused(door, write(tmp_path / "net.onnx", proto))
    if shape != [37, CLASSES]:  # more bytes than numbers: a runtime sees to the rest
        assert "a tensor has as many numbers as its shape says, 'w' of net.onnx has the shape" in words


def test_a_sparse_tensor_of_petabytes(door, tmp_path):
    proto = linear()
    proto.graph.sparse_initializer.add().dims.extend([2**25, 2**25])
    assert "net.onnx has a sparse one of 1125899906842624" in refused(door, write(tmp_path / "net.onnx", proto))


@pytest.mark.parametrize("operator", ["Loop", "Scan", "SequenceMap"])
def test_a_loop_that_may_never_end(door, tmp_path, operator):
    body = helper.make_graph(
        [helper.make_node("Identity", ["more"], ["on"])],
        "body",
        [helper.make_tensor_value_info(name, kind, []) for name, kind in (("turn", 7), ("more", 9))],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, [])],
    )
    loop = helper.make_node(operator, ["turns", "yes"], [], body=body)
    proto = linear(loop, turns=np.array(2**62), yes=np.array(True))
    assert f"net.onnx has a {operator}, which may never end" in refused(door, write(tmp_path / "net.onnx", proto))


def doubling(levels: int, last: str) -> list[onnx.FunctionProto]:
    """Functions that call the next one twice."""
    return [
        helper.make_function(
            "ours",
            f"f{level}",
            ["x"],
            ["z"],
            [
                helper.make_node(inner, ["x"], ["y"], domain="ours" if inner != "Relu" else ""),
                helper.make_node(inner, ["y"], ["z"], domain="ours" if inner != "Relu" else ""),
            ],
            [helper.make_opsetid("", 18), helper.make_opsetid("ours", 1)],
        )
        for level in range(levels)
        for inner in [f"f{level + 1}" if level + 1 < levels else last]
    ]


def test_functions_that_unfold_into_a_billion_nodes(door, tmp_path):
    proto = linear(helper.make_node("f0", ["zero"], ["y"], domain="ours"), added="y")
    proto.functions.extend(doubling(30, "Relu"))
    assert "at most 200000 nodes, net.onnx has 2147483650" in refused(door, write(tmp_path / "net.onnx", proto))


def test_a_function_that_calls_itself(door, tmp_path):
    proto = linear(helper.make_node("f0", ["zero"], ["y"], domain="ours"), added="y")
    proto.functions.extend(doubling(3, "f0"))
    assert "'f0' of net.onnx calls itself" in refused(door, write(tmp_path / "net.onnx", proto))


def branching(levels: int, last: str) -> list[onnx.FunctionProto]:
    """Functions that call the next one in both branches of an If."""

    def branch(name: str, inner: str) -> onnx.GraphProto:
        call = helper.make_node(inner, ["x"], [name], domain="ours" if inner != "Relu" else "")
        return helper.make_graph([call], name, [], [helper.make_tensor_value_info(name, FLOAT, None)])

    yes = numpy_helper.from_array(np.array(True))
    names = [*(f"f{level}" for level in range(levels)), last]
    return [
        helper.make_function(
            "ours",
            name,
            ["x"],
            ["y"],
            [
                helper.make_node("Constant", [], ["yes"], value=yes),
                helper.make_node("If", ["yes"], ["y"], then_branch=branch("a", inner), else_branch=branch("b", inner)),
            ],
            [helper.make_opsetid("", 18), helper.make_opsetid("ours", 1)],
        )
        for name, inner in itertools.pairwise(names)
    ]


def test_functions_that_unfold_out_of_branches(door, tmp_path):
    """Level k of n has 3 nodes and twice the next level: with the call of the last, 3 (2^n - 1) + 2^n."""
    proto = linear(helper.make_node("f0", ["zero"], ["y"], domain="ours"), added="y")
    proto.functions.extend(branching(40, "Relu"))
    nodes = 3 * (2**40 - 1) + 2**40 + 3
    assert f"at most 200000 nodes, net.onnx has {nodes}" in refused(door, write(tmp_path / "net.onnx", proto))


def test_a_function_that_calls_itself_in_a_branch(door, tmp_path):
    proto = linear(helper.make_node("f0", ["zero"], ["y"], domain="ours"), added="y")
    proto.functions.extend(branching(3, "f0"))
    assert "'f0' of net.onnx calls itself" in refused(door, write(tmp_path / "net.onnx", proto))


def test_graphs_that_lie_too_deep_in_each_other(door, tmp_path):
    graph = helper.make_graph([], "leaf", [], [])
    for _ in range(modelfile.MOST_DEPTH + 2):
        node = helper.make_node("If", ["yes"], ["d"], then_branch=graph, else_branch=graph.__class__())
        graph = helper.make_graph([node], "around", [], [])
    proto = linear(*graph.node)
    assert "lie at most 16 deep inside each other" in refused(door, write(tmp_path / "net.onnx", proto))


def test_a_file_of_nothing_but_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(modelfile, "MOST_FIELDS", 1000)
    with pytest.raises(InputError, match=r"at most 1000 entries, net.onnx has more"):
        check_model(b"\x08\x01" * 1001, "net.onnx")
    check_model(linear().SerializeToString(), "net.onnx")


def test_every_cut_is_seen(tmp_path):
    """What is left of a file that was cut is refused here or ends at the end of a field."""
    whole = linear().SerializeToString()
    names = set()
    for end in range(len(whole)):
        try:
            check_model(whole[:end], "net.onnx")
        except InputError as error:
            names.add(str(error).split(":")[0])
    assert names == {"net.onnx must be an ONNX file, it is not, or not whole"}


# what a runtime refuses


def test_a_graph_that_is_a_circle(door, tmp_path):
    nodes = [helper.make_node("Relu", ["b"], ["a"]), helper.make_node("Add", ["a", "zero"], ["b"])]
    refused(door, write(tmp_path / "net.onnx", linear(*nodes, added="b")))


# what only shows when it is computed


def spread() -> onnx.ModelProto:
    """Sixty-four gigabytes of zeros out of a shape."""
    zeros = helper.make_node("ConstantOfShape", ["shape"], ["zeros"])
    mean = helper.make_node("ReduceMean", ["zeros"], ["mean"], keepdims=0)
    return linear(zeros, mean, added="mean", shape=np.array([2**34]))


def test_a_shape_is_multiplied_out_before_a_re_import_makes_room(tmp_path):
    words = refused(reimport, write(tmp_path / "net.onnx", spread()))
    assert "makes a tensor of [17179869184], which has more than 268435456 numbers" in words


def slow() -> onnx.ModelProto:
    """Hours of matrices, of few bytes."""
    nodes = [
        helper.make_node("RandomUniform", [], ["m0"], shape=[3000, 3000], seed=1.0),
        *(helper.make_node("MatMul", [f"m{n}", f"m{n}"], [f"m{n + 1}"]) for n in range(4000)),
        helper.make_node("ReduceMean", ["m4000"], ["mean"], keepdims=0),
    ]
    return linear(*nodes, added="mean")


@pytest.mark.parametrize(("make", "words"), [(spread, "it does not"), (slow, "is not done by then")])
def test_a_process_of_its_own_pays_for_what_is_computed(tmp_path, monkeypatch, make, words):
    monkeypatch.setattr(trial, "SECONDS", 60.0 if make is spread else 4.0)
    monkeypatch.setattr(trial, "MEMORY", 1_000_000_000)
    path = write(tmp_path / "net.onnx", make())
    monkeypatch.chdir(tmp_path)
    started = time.monotonic()
    with pytest.raises(InputError, match=words) as error:
        trial.try_file(path, Feed(), image=IMAGE, classes=CLASSES, data="pictures")
    assert time.monotonic() - started < 60
    assert_sentence(str(error.value))
    assert os.listdir(tmp_path) == ["net.onnx"]


def test_the_folder_that_somebody_stands_in_is_not_imported_from(tmp_path, monkeypatch):
    """Else a downloaded folder brings a module of its own beside the file, which runs without any limit."""
    path = write(tmp_path / "net.onnx", linear())
    for name in ("onnxruntime", "numpy", "json", "rcnas_edge"):
        (tmp_path / f"{name}.py").write_text("open('was-here', 'w').close()\nraise ImportError('ours')\n")
    monkeypatch.chdir(tmp_path)
    trial.try_file(path, Feed(), image=IMAGE, classes=CLASSES, data="pictures")
    assert not (tmp_path / "was-here").exists()


def test_a_runtime_that_crashes_is_one_sentence(tmp_path, monkeypatch):
    """The child dies of a signal, as it would inside a runtime."""
    path = write(tmp_path / "net.onnx", linear())
    monkeypatch.setattr(trial, "PROGRAM", ("-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"))
    with pytest.raises(InputError, match=r"net.onnx broke the process: signal 11"):
        trial.try_file(path, Feed(), image=IMAGE, classes=CLASSES, data="pictures")


def test_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "net.onnx", spread())
    monkeypatch.setattr(trial, "MEMORY", 1_000_000_000)
    with pytest.raises(SystemExit) as end:
        main(["verify", "net.onnx", "--dataset", "digits", "--out", "verdict", "--level", "smoke"])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert_sentence(line)
    assert os.listdir(tmp_path) == ["net.onnx"]


def test_read_model_is_what_is_there(tmp_path):
    path = write(tmp_path / "net.onnx", linear())
    assert read_model(path) == path.read_bytes()
