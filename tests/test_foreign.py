"""Any ONNX classifier can be verified: whatever it wants to be given, its verdict is that of the same network."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from rcnas_edge.cli import main
from rcnas_edge.data import load_dataset
from rcnas_edge.errors import InputError
from rcnas_edge.pipeline.console import Silent
from rcnas_edge.pipeline.feed import Feed
from rcnas_edge.pipeline.foreign import open_file
from rcnas_edge.pipeline.foreign_verdict import FileSetting, verify_file
from rcnas_edge.quantise import int8_model
from rcnas_edge.verdict import Verdict

GREY = (1, 8, 8)
COLOUR = (3, 6, 5)
QUICK = ("--subset", "60", "--level", "smoke", "--attack", "linf:0.02:5")


def classifier(
    path: Path,
    *,
    image: tuple[int, int, int] = COLOUR,
    layout: str = "nchw",
    batch: int | str = "N",
    classes: int = 10,
    kind: int = TensorProto.FLOAT,
    weights: tuple[np.ndarray, np.ndarray] | None = None,
    extra: str = "",
    outputs: int = 1,
) -> Path:
    """A network of one layer on pixels in the order of NCHW, whatever layout the file takes them in."""
    channels, height, width = image
    pixels = channels * height * width
    draw = np.random.default_rng(0)
    matrix, bias = weights or (draw.normal(0, 0.3, (pixels, classes)), draw.normal(0, 0.3, classes))
    shape = [batch, *image] if layout == "nchw" else [batch, height, width, channels]
    real = np.float16 if kind == TensorProto.FLOAT16 else np.float32
    constants = {"w": matrix.astype(real), "b": bias.astype(real)}
    nodes = [
        helper.make_node("Transpose", ["pictures"], ["chw"], perm=[0, 3, 1, 2] if layout == "nhwc" else [0, 1, 2, 3]),
        helper.make_node("Flatten", ["chw"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["scores" if extra else "y0"], "head"),
    ]
    if extra:
        nodes.append(helper.make_node(extra, ["scores"], ["y0"], "odd"))
    nodes += [helper.make_node("Neg", ["y0"], [f"y{number}"]) for number in range(1, outputs)]
    graph = helper.make_graph(
        nodes,
        "one layer",
        [helper.make_tensor_value_info("pictures", kind, shape)],
        [helper.make_tensor_value_info(f"y{number}", kind, [batch, classes]) for number in range(outputs)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


@cache
def fitted() -> tuple[np.ndarray, np.ndarray]:
    """Weights (64, 10) and biases (10,) that tell digits apart, by ridge regression."""
    data = load_dataset("digits").train
    rows = np.c_[data.images.reshape(len(data), -1) / 255, np.ones(len(data))]
    wanted = np.eye(10)[data.labels]
    found = np.linalg.solve(rows.T @ rows + np.eye(65), rows.T @ wanted)
    return found[:-1], found[-1]


def digits(path: Path, **more) -> Path:
    """A linear classifier of scikit-learn's digits on pixels in [0, 1]."""
    return classifier(path, image=GREY, weights=fitted(), **more)


def opened(path: Path, feed: Feed = Feed(), *, image=COLOUR, classes: int = 10):  # noqa: B008 - a frozen value
    return open_file(path, feed, image=image, classes=classes, data="pictures")


def pictures(count: int = 7, image=COLOUR) -> np.ndarray:
    return np.random.default_rng(3).random((count, *image)).astype(np.float32)


def scores(images: np.ndarray) -> np.ndarray:
    """What `classifier` computes of pixels as it is given them (N, C, H, W), by hand."""
    draw = np.random.default_rng(0)
    matrix, bias = draw.normal(0, 0.3, (90, 10)), draw.normal(0, 0.3, 10)
    return images.reshape(len(images), -1) @ matrix + bias


# What a file is given


MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
FEEDS = [
    (Feed(), lambda images: images),
    (Feed(high=255.0), lambda images: 255 * images),
    (Feed(low=-1.0), lambda images: 2 * images - 1),
    (Feed(mean=(0.5,)), lambda images: images - 0.5),
    (Feed(mean=MEAN, std=STD), lambda images: (images - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))),
    (Feed(high=255.0, mean=MEAN), lambda images: 255 * (images - np.reshape(MEAN, (3, 1, 1)))),
]


@pytest.mark.parametrize(("feed", "by_hand"), FEEDS, ids=[feed.words() for feed, _ in FEEDS])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_a_file_and_its_re_import_are_given_what_the_flags_say(tmp_path, feed, by_hand, layout, batch):
    file = opened(classifier(tmp_path / "net.onnx", layout=layout, batch=batch), feed)
    images = pictures()
    expected = scores(by_hand(images.astype(np.float64)))
    tolerance = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(file.predict(images), expected, atol=tolerance)
    given = torch.from_numpy(images).requires_grad_()
    logits = file.twin()(given)
    np.testing.assert_allclose(logits.detach().numpy(), expected, atol=tolerance)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), given)
    moved = np.zeros_like(images)
    moved[:, 1, 2, 3] = 0.5
    slope = scores(by_hand((images + moved).astype(np.float64)))[:, 0] - expected[:, 0]
    np.testing.assert_allclose(0.5 * gradient[:, 1, 2, 3], slope, rtol=1e-4)


@pytest.mark.parametrize("size", [1, 2])
def test_a_fixed_batch_is_filled_up_and_said(tmp_path, size):
    file = opened(classifier(tmp_path / "net.onnx", batch=size))
    assert file.predict(pictures(3)).shape == (3, 10)
    assert any(f"takes batches of {size} only" in sentence for sentence in file.told)
    assert any("filled up" in sentence for sentence in file.told) is (size > 1)
    free = opened(classifier(tmp_path / "free.onnx"))
    np.testing.assert_allclose(file.predict(pictures()), free.predict(pictures()), rtol=1e-5, atol=1e-6)
    assert not any("batches" in sentence for sentence in free.told)


def test_pixels_of_sixteen_bits_are_given_as_such(tmp_path):
    file = opened(classifier(tmp_path / "net.onnx", kind=TensorProto.FLOAT16))
    found = file.predict(pictures())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, scores(pictures()), atol=0.01)


def test_the_layout_is_read_off_the_input_and_told(tmp_path):
    for layout in ("nchw", "nhwc"):
        file = opened(classifier(tmp_path / f"{layout}.onnx", layout=layout))
        assert file.layout == layout
        assert f"takes images as {layout.upper()} (its input is N" in file.told[0]
        assert "if that is wrong" not in file.told[0]
    square = opened(classifier(tmp_path / "square.onnx", image=(3, 3, 3)), image=(3, 3, 3))
    assert square.layout == "nchw"
    assert "--layout nhwc if that is wrong" in square.told[0]
    assert opened(tmp_path / "square.onnx", Feed(layout="nhwc"), image=(3, 3, 3)).layout == "nhwc"


def test_flags_are_parsed():
    feed = Feed.parse(layout="NHWC", input_range="0,255", mean="0.5,0.4,0.3", std="0.25")
    assert feed == Feed("nhwc", 0.0, 255.0, (0.5, 0.4, 0.3), (0.25,))
    assert Feed.parse(layout=None, input_range=None, mean=None, std=None) == Feed()
    assert feed.words() == "pixels in [0, 255], normalised by mean 0.5,0.4,0.3 and std 0.25"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"layout": "chwn"}, "--layout is nchw or nhwc, got 'chwn'"),
        ({"input_range": "255"}, "--input-range is LOW,HIGH, as 0,255; got '255'"),
        ({"input_range": "1,0"}, "--input-range is LOW,HIGH with LOW < HIGH, as 0,255; got 1,0"),
        ({"mean": "a,b"}, "--mean is numbers with commas between"),
        ({"std": "0.2,0,0.3"}, "--std is above 0 in every channel"),
        ({"std": "nan"}, "--std is numbers with commas between"),
        ({"input_range": "-1,1", "mean": "0.5"}, "leave one of them out"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, words):
    with pytest.raises(InputError, match=words.replace("[", r"\[")):
        Feed.parse(**{"layout": None, "input_range": None, "mean": None, "std": None} | flags)


def test_moments_are_per_channel_or_one_for_all(tmp_path):
    with pytest.raises(InputError, match=r"--mean has one number per channel \(3\), or one for all; got 2"):
        opened(classifier(tmp_path / "net.onnx"), Feed(mean=(0.5, 0.4)))


# What is refused


def test_a_file_that_does_not_fit_the_data_is_refused(tmp_path):
    path = classifier(tmp_path / "net.onnx")
    cases = [
        ({"image": (3, 8, 8)}, "net.onnx takes Nx3x6x5 and pictures has 3x8x8 .*--dataset folder with --image-size"),
        ({"image": (1, 6, 5)}, r"they differ in channels \(1 is grey, 3 is colour\)"),
        ({"classes": 100}, "net.onnx has 10 and pictures has 100"),
        ({"feed": Feed(layout="nhwc")}, "takes Nx3x6x5 as NHWC .*leave --layout out, or say nchw"),
    ]
    for changed, words in cases:
        with pytest.raises(InputError, match=words):
            opened(path, **changed)


def test_a_file_that_is_no_classifier_of_images_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"net.onnx has 3: y0, y1, y2"):
        opened(classifier(tmp_path / "net.onnx", outputs=3))
    with pytest.raises(InputError, match="must be an ONNX file that can be read, it is not: No such file"):
        opened(tmp_path / "gone.onnx")
    (tmp_path / "noise.onnx").write_bytes(b"PK\x03\x04 no model")
    with pytest.raises(InputError, match=r"noise.onnx must be an ONNX file, it is not, or not whole"):
        opened(tmp_path / "noise.onnx")
    proto = onnx.load(classifier(tmp_path / "rows.onnx", weights=(np.ones((3, 10)), np.ones(10))))
    del proto.graph.input[0].type.tensor_type.shape.dim[2:]
    proto.graph.node[0].attribute[0].ints[:] = [0, 1]
    onnx.save(proto, tmp_path / "rows.onnx")
    with pytest.raises(InputError, match=r"the input 'pictures' of rows.onnx has 2 \(Nx3\)"):
        opened(tmp_path / "rows.onnx")


# The verdict


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["verify", *map(str, arguments)])
    return end.value.code


def test_a_file_gets_a_verdict_a_page_and_two_lines(tmp_path, capsys):
    path, out = digits(tmp_path / "net.onnx", batch=4), tmp_path / "out"
    assert run(path, *QUICK, "--min-robust", "0.5", "--out", out) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-2].startswith("net.onnx: robust under linf:0.02:5 (robust ")
    assert any("read back and differentiable: largest drift" in line for line in said)
    values = json.loads((out / "verdict.json").read_text())
    verdict = Verdict.from_dict(values["verdict"])
    assert verdict.to_dict() == values["verdict"]
    assert (values["schema"], values["file"]["precision"], values["file"]["batch"]) == (1, "fp32", 4)
    assert values["file"]["sha256"] == verdict.sha256
    assert values["asked"]["min_robust"] == 0.5
    assert any("batches of 4 only" in sentence for sentence in values["told"])
    with np.load(out / "verdict.npz") as arrays:
        assert arrays["clean"].sum() == verdict.clean.hits
        assert arrays["robust"].sum() == verdict.robust.hits
    page = (out / "verdict.html").read_text()
    assert "net.onnx is robust" in page
    assert "batches of 4 only" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_the_verdict_is_that_of_the_network_whatever_it_is_given(tmp_path):
    """The same network in two files that want other pixels: the same images stay right."""
    matrix, bias = fitted()
    plain = digits(tmp_path / "plain.onnx")
    bytes_wanted = classifier(tmp_path / "bytes.onnx", image=GREY, layout="nhwc", weights=(matrix / 255, bias))
    verdicts = []
    for path, more in ((plain, {}), (bytes_wanted, {"input_range": "0,255", "layout": "nhwc"})):
        setting = FileSetting(subset=60, level="smoke", attack="linf:0.05:5", **more)
        verdicts.append(verify_file(path, setting, None, Silent()))
    first, second = verdicts
    assert first.clean == second.clean
    assert first.robust == second.robust
    assert 0 < first.robust.hits < first.clean.hits
    wrong = verify_file(bytes_wanted, FileSetting(subset=60, level="smoke", attack="linf:0.05:5"), None, Silent())
    assert wrong.clean.hits < first.clean.hits


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_a_seed_that_cannot_be_is_one_sentence(seed, tmp_path, capsys):
    assert run(digits(tmp_path / "net.onnx"), *QUICK, "--seed", seed) == 2
    assert f"--seed is between 0 and 2147483647, got {seed}" in capsys.readouterr().err


def test_a_gate_that_fails_is_exit_code_4(tmp_path):
    assert run(digits(tmp_path / "net.onnx"), *QUICK, "--min-robust", "0.999") == 4


@pytest.mark.parametrize(("extra", "flags"), [("Erf", ()), ("", ("--no-white-box",))])
def test_without_gradients_a_file_is_never_robust(tmp_path, capsys, extra, flags):
    path = digits(tmp_path / "net.onnx", extra=extra)
    assert run(path, *QUICK, "--min-robust", "0.1", *flags) == 5
    said = capsys.readouterr().out
    assert "net.onnx: inconclusive" in said
    assert "attacked without gradients" in said
    if extra:
        assert "the operator Erf (node 'odd') is not supported" in said


def test_a_file_that_its_re_import_does_not_match_is_attacked_without_gradients(tmp_path, monkeypatch):
    from rcnas_edge.pipeline import foreign

    class Other(torch.nn.Module):
        quantised = False

        def forward(self, images):
            return images.flatten(1)[:, :10]

    monkeypatch.setattr(foreign.OnnxFile, "twin", lambda self, straight_through=True: Other())
    told = []

    class Told(Silent):
        def say(self, text):
            told.append(text)

    setting = FileSetting(subset=60, level="smoke", attack="linf:0.02:5", min_robust=0.1)
    verdict = verify_file(digits(tmp_path / "net.onnx"), setting, None, Told())
    assert verdict.decision == "inconclusive"
    assert any(line.startswith("attacked without gradients: the re-imported network is not the file") for line in told)


def test_eight_bits_beside_the_network_that_they_were_made_of(tmp_path, capsys):
    parent = digits(tmp_path / "fp32.onnx")
    images = load_dataset("digits").held_out.floats()[:64]
    (tmp_path / "int8.onnx").write_bytes(int8_model(parent.read_bytes(), [images]))
    out = tmp_path / "out"
    code = run(tmp_path / "int8.onnx", *QUICK, "--parent", parent, "--out", out)
    values = json.loads((out / "verdict.json").read_text())
    assert values["file"]["precision"] == "int8"
    assert values["verdict"]["twin"].startswith("re-import")
    assert values["verdict"]["checkpoint"] is not None
    assert values["verdict"]["evasion"] is not None
    assert code == {"robust": 0, "not robust": 4, "inconclusive": 5}[values["verdict"]["decision"]]
    assert "test images into the same class as int8.onnx" in capsys.readouterr().out


def test_a_reference_is_what_the_loss_is_against(tmp_path, capsys):
    """Half of the weights of class 3 are gone: the loss against the whole network is a gate."""
    matrix, bias = fitted()
    less = matrix.copy()
    less[::2, 3] = 0
    path = classifier(tmp_path / "less.onnx", image=GREY, weights=(less, bias))
    whole = digits(tmp_path / "whole.onnx")
    out = tmp_path / "out"
    assert run(path, *QUICK, "--reference", whole, "--max-robust-drop", "0.01", "--out", out) == 4
    loss = json.loads((out / "verdict.json").read_text())["verdict"]["reference"]["loss"]
    assert loss["value"] > 0.01
    assert run(whole, *QUICK, "--reference", whole, "--max-robust-drop", "0.01") == 0


def test_a_verdict_can_be_asked_for_again(tmp_path):
    path, out = digits(tmp_path / "net.onnx"), tmp_path / "out"
    setting = FileSetting(subset=60, level="smoke", attack="linf:0.02:5")
    first = verify_file(path, setting, out, Silent())
    assert verify_file(path, setting, out, Silent()).robust == first.robust


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name an ONNX file, or the folder of a run with --out"),
        (("--out", "runs/a", "--dataset", "digits"), "--dataset is for an ONNX file"),
        (("--out", "runs/a", "--mean", "0.5"), "--mean is for an ONNX file"),
        (("gone.onnx",), "gone.onnx must be an ONNX file that can be read"),
        (("gone.onnx", "--level", "deep"), "--level is one of smoke, standard, publish, got 'deep'"),
        (("gone.onnx", "--dataset", "mnist"), "a data set is one of"),
        (("gone.onnx", "--min-robust", "60"), "--min-robust is a share between 0 and 1"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_code_2(arguments, words, capsys):
    assert run(*arguments) == 2
    assert words in " ".join(capsys.readouterr().err.split())
