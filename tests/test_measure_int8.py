"""Tables of int8 kernels: what they are against the runtime's own graph, and how they are measured, kept and looked up.

No test asks for a speed.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import onnx
import pytest
from test_measure import NETWORKS, TINY, Known

from rcnas_edge.cost.breakdown import breakdown
from rcnas_edge.errors import InputError
from rcnas_edge.measure import ENOUGH_TO_TELL, LEAST_MS, Measurement, measure_profile, runtime_here
from rcnas_edge.measure.specimen import difference, specimen
from rcnas_edge.measure.stopwatch import written
from rcnas_edge.measure.timing import open_session
from rcnas_edge.nets.wrn_rows import rows
from rcnas_edge.profile import Profile, Target, read_profile
from rcnas_edge.profile.fusion import INTEGER, RUNTIMES, kernels, kernels_of
from rcnas_edge.space import Layer

INT8 = Target("host", "int8")
OPERATIONS = {
    "QLinearAdd": "add",
    "QLinearAveragePool": "avgpool",
    "QLinearConcat": "concat",
    "QLinearMul": "multiply",
    "QLinearSigmoid": "sigmoid",
    "ReduceMean": "globalpool",
    "Sigmoid": "sigmoid",
    "Split": "slice",
    "Sub": "normalize",
}
LAYERS = ("QLinearConv", "Conv", "QGemm", "Gemm")
"""Sums of products: convolutions, linear layers, and normalisations as convolutions of one weight per channel."""
BETWEEN = ("QuantizeLinear", "DequantizeLinear", "Transpose", "Div", "Unsqueeze", "Reshape")
"""What a kernel of its own is beside others, and counted with them."""


def run_by_runtime(layers: tuple[Layer, ...], folder: Path) -> Counter[str]:
    """The operations in the integer graph that the runtime of this machine makes of the rows."""
    optimised = folder / "optimised.onnx"
    open_session(written(layers, "int8"), 1, optimised=optimised)
    found = [node.op_type for node in onnx.load(str(optimised)).graph.node]
    assert "Relu" not in found
    return Counter("layer" if name in LAYERS else OPERATIONS[name] for name in found if name not in BETWEEN)


def run_by_profile(layers: tuple[Layer, ...]) -> Counter[str]:
    """The same by `fusion`."""
    found = [kernel[0] for kernel, _ in kernels(layers, INTEGER)]
    return Counter("layer" if name in ("conv", "linear", "batchnorm") else name for name in found)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_kernels_of_an_int8_graph_are_those_of_the_runtime(name: str, tmp_path: Path) -> None:
    layers = rows(NETWORKS[name])
    assert run_by_profile(layers) == run_by_runtime(layers, tmp_path)


def test_every_row_belongs_to_one_kernel() -> None:
    layers = rows(NETWORKS["mixed"])
    held = [row for _, of_kernel in kernels(layers, INTEGER) for row in of_kernel]
    assert sorted(held) == list(range(len(layers)))


def test_a_specimen_holds_its_kernel_and_runs_as_counted(tmp_path: Path) -> None:
    waiting = [kernel for config in NETWORKS.values() for kernel, _ in kernels(rows(config), INTEGER)]
    found: dict[tuple, tuple] = {}
    while waiting:
        kernel = waiting.pop()
        if kernel[:5] not in found:
            found[kernel[:5]] = kernel
            waiting += list(difference(kernel, 1, 2, INTEGER))
    assert {key[0] for key in found} >= {"conv", "linear", "batchnorm", "sigmoid", "multiply", "slice", "concat"}
    for kernel in found.values():
        assert difference(kernel, 1, 4, INTEGER)[kernel] == 3, kernel
        more = run_by_runtime(specimen(kernel, 4, integer=True), tmp_path)
        more.subtract(run_by_runtime(specimen(kernel, 1, integer=True), tmp_path))
        expected = run_by_profile(specimen(kernel, 4, integer=True))
        expected.subtract(run_by_profile(specimen(kernel, 1, integer=True)))
        assert +more == +expected, kernel


def test_only_a_cpu_has_kernels_of_its_own_for_int8() -> None:
    assert {runtime for runtime in RUNTIMES if kernels_of(runtime, "int8") == INTEGER} == {
        "onnxruntime",
        "onnxruntime-nchwc8",
        "onnxruntime-nchwc16",
    }
    assert all(kernels_of(runtime, "fp32") == runtime for runtime in RUNTIMES)
    assert INTEGER not in RUNTIMES, "it is no runtime of a profile"


def test_an_int8_table_is_measured_beside_the_one_in_fp32_and_predicts(tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    floats = measure_profile("host", TINY[:2], path=path, budget_seconds=60, calibration=1, check=1)
    both = measure_profile(
        "host", TINY[:2], path=path, precision="int8", budget_seconds=60, passes=3, calibration=1, check=1
    )
    assert read_profile(path) == both
    assert both.precisions == ("fp32", "int8")
    assert {row.setting for row in both.rows} == {"fp32/1", "int8/1"}
    assert [row for row in both.rows if row.precision == "fp32"] == list(floats.rows)
    for layers in TINY[:2]:
        needed = {kernel for kernel, _ in kernels(layers, INTEGER)}
        assert needed <= {row.kernel for row in both.rows if row.precision == "int8"}
        ms, share = both.latency(layers, INT8)
        assert ms > 0
        assert share > 0.99
        parts = breakdown(layers, both, INT8)
        assert sum(part.latency_ms or 0 for part in parts) == pytest.approx(ms, rel=1e-6)
        assert {part.kind.split("+")[0] for part in parts} >= {"conv", "add", "batchnorm"}
    assert "int8/1/8x8" in both.scale


class Unseen(Known):
    """A timer that sees nothing of additions, which take a little less than nothing by its clock."""

    @staticmethod
    def ms(kernel) -> float:
        return -1e-6 if kernel[0] == "add" else Known.ms(kernel)


@pytest.mark.parametrize("passes", [1, ENOUGH_TO_TELL])
def test_what_several_samples_do_not_show_takes_no_time_and_one_sample_tells_nothing(
    passes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    empty = Profile("host", "known", runtime_here(), precisions=("fp32", "int8"))
    measurement = Measurement(empty, tmp_path / "host.toml", INT8, Unseen(INTEGER), lambda label, share: None)
    measurement.rows(TINY[:1], math.inf, passes)
    sums = {row.ms for row in measurement.profile.rows if row.key.operation == "add"}
    assert sums == (set() if passes < ENOUGH_TO_TELL else {LEAST_MS})
    assert ("noise hides the kernel ('add'" in caplog.text) == (passes < ENOUGH_TO_TELL)


def test_a_convolution_that_takes_no_time_is_never_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Blind(Known):
        @staticmethod
        def ms(kernel) -> float:
            return -1e-6

    empty = Profile("host", "known", runtime_here(), precisions=("fp32", "int8"))
    measurement = Measurement(empty, tmp_path / "host.toml", INT8, Blind(INTEGER), lambda label, share: None)
    measurement.rows(TINY[:1], math.inf, 3)
    assert not [row for row in measurement.profile.rows if row.key.operation in ("conv", "linear")]
    assert "noise hides the kernel ('conv'" in caplog.text or "needs ('add'" in caplog.text


def test_a_cpu_has_no_table_in_fp16(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="measured in fp32 or int8, got 'fp16': a CPU computes it in another one"):
        measure_profile("host", TINY, precision="fp16", path=tmp_path / "host.toml")
