"""Measuring on this machine: graphs against torch's exporter and the runtime's own, tables that grow and resume.

No test asks for a speed: they check what is counted, kept and said.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest

from rcnas_edge import measure
from rcnas_edge.errors import InputError
from rcnas_edge.measure import graph_of, measure_profile, runtime_here, time_model
from rcnas_edge.measure.calibration import Calibration, agreement
from rcnas_edge.measure.planning import WEIGHT_BYTES, copies_of, ordered, plan, timed_part
from rcnas_edge.measure.specimen import difference, specimen
from rcnas_edge.measure.stopwatch import Outrun
from rcnas_edge.measure.timing import open_session
from rcnas_edge.nets.rows import RowWriter
from rcnas_edge.nets.wrn_rows import WrnConfig, rows
from rcnas_edge.profile import Profile, Target, read_profile
from rcnas_edge.profile.fusion import kernels
from rcnas_edge.profile.table import interpolate, weights, work
from rcnas_edge.space import IMAGE, KINDS, Layer


def network(
    depths: tuple[int, int, int], widths: tuple[int, int, int], robust: tuple[bool, bool, bool], size: int = 8
) -> WrnConfig:
    return WrnConfig(depths, widths, robust, image=(1, size, size), classes=10, mean=(0.3,), std=(0.4,))


NETWORKS = {
    "basic": network((1, 2, 1), (16, 24, 40), (False, False, False)),
    "robust": network((1, 2, 1), (8, 16, 24), (True, True, True)),
    "mixed": network((2, 1, 2), (8, 40, 64), (False, True, True)),
}
TINY = [rows(network((1, 1, 1), (width, width, width), (False, False, False))) for width in (8, 16, 24, 32)]

OPERATIONS = {
    "Conv": "conv",
    "FusedConv": "conv",
    "ReorderInput": "to_blocked",
    "ReorderOutput": "to_plain",
    "Gemm": "linear",
    "FusedGemm": "linear",
    "Split": "slice",
    "Concat": "concat",
    "AveragePool": "avgpool",
    "ReduceMean": "globalpool",
    "Add": "add",
    "Mul": "multiply",
    "BatchNormalization": "batchnorm",
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Sub": "normalize",
}
SILENT = ("Div", "Unsqueeze", "Reshape")
"""Counted with another operator: normalize is Sub and Div; multiply has the Unsqueeze of its vector."""


def run_by_runtime(layers: tuple[Layer, ...], folder: Path) -> Counter[str]:
    """The operations in the graph that the runtime of this machine makes of the rows."""
    optimised = folder / "optimised.onnx"
    open_session(graph_of(layers).SerializeToString(), 1, optimised=optimised)
    nodes = onnx.load(str(optimised)).graph.node
    return Counter(OPERATIONS[node.op_type] for node in nodes if node.op_type not in SILENT)


def run_by_profile(layers: tuple[Layer, ...]) -> Counter[str]:
    """The same by `fusion`; a blocked normalisation is run as a depthwise convolution."""
    return Counter(
        "conv" if kernel[:2] == ("batchnorm", "blocked") else kernel[0] for kernel, _ in kernels(layers, runtime_here())
    )


# graphs from rows


@pytest.mark.parametrize("name", NETWORKS)
def test_a_graph_is_valid_and_has_the_shapes_of_the_rows(name: str) -> None:
    model = graph_of(rows(NETWORKS[name]), batch=3)
    onnx.checker.check_model(model, full_check=True)
    session = open_session(model.SerializeToString(), 1)
    (logits,) = session.run(None, {"images": np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)})
    assert logits.shape == (3, 10)
    assert np.isfinite(logits).all()
    assert logits.std() > 0


def test_the_same_seed_gives_the_same_graph() -> None:
    layers = rows(NETWORKS["mixed"])
    assert graph_of(layers).SerializeToString() == graph_of(layers).SerializeToString()
    assert graph_of(layers, seed=1).SerializeToString() != graph_of(layers).SerializeToString()


def test_a_graph_has_the_operators_that_torch_exports() -> None:
    import torch

    from rcnas_edge.nets.wrn import WideResNet

    config = network((1, 1, 1), (8, 16, 40), (False, True, False))
    with torch.random.fork_rng():
        built = WideResNet(config).eval()
    program = torch.onnx.export(built, (torch.rand(1, 1, 8, 8),), dynamo=True, verbose=False)
    exported = Counter(node.op_type for node in program.model_proto.graph.node)
    ours = Counter(node.op_type for node in graph_of(rows(config)).graph.node)
    ours["Identity"] -= 1  # it only names the output
    assert +ours == exported


def test_rows_that_do_not_fit_together_are_refused() -> None:
    conv = Layer("conv", "conv", (4, 8, 8), (8, 8, 8), (IMAGE,))
    with pytest.raises(InputError, match=r"'relu' has \(4, 8, 8\), reads \(8, 8, 8\)"):
        graph_of((conv, Layer("relu", "relu", (4, 8, 8), (4, 8, 8), (0,))))
    with pytest.raises(InputError, match=r"earlier rows, 'conv' reads \(0,\)"):
        graph_of((Layer("conv", "conv", (4, 8, 8), (8, 8, 8), (0,)),))
    with pytest.raises(InputError, match="at least one layer row"):
        graph_of(())


def test_any_slice_and_a_flattened_image_can_be_written() -> None:
    write = RowWriter((4, 2, 2))
    part = write.channels("middle", IMAGE, 1, 2)
    write.rows.append(Layer("linear", "linear", (8, 1, 1), (3, 1, 1), (part,), bias=True))
    model = graph_of(write.rows)
    images = np.arange(16, dtype=np.float32).reshape(1, 4, 2, 2)
    (out,) = open_session(model.SerializeToString(), 1).run(None, {"images": images})
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    expected = held["linear.weight"] @ images[0, 1:3].ravel() + held["linear.bias"]
    np.testing.assert_allclose(out[0], expected, rtol=1e-5)


# fusion against the runtime


@pytest.mark.parametrize("name", NETWORKS)
def test_fusion_is_what_the_runtime_does(name: str, tmp_path: Path) -> None:
    layers = rows(NETWORKS[name])
    assert run_by_profile(layers) == run_by_runtime(layers, tmp_path)


def needed_kernels() -> dict[str, tuple]:
    """One kernel of each kind, layout, kernel and stride that the networks need, helpers included."""
    waiting = [kernel for config in NETWORKS.values() for kernel, _ in kernels(rows(config), runtime_here())]
    found: dict[str, tuple] = {}
    while waiting:
        kernel = waiting.pop()
        name = "-".join(map(str, kernel[:5]))
        if name not in found:
            found[name] = kernel
            waiting += list(difference(kernel, 1, 2, runtime_here()))
    return found


def test_a_specimen_holds_its_kernel_and_runs_as_counted(tmp_path: Path) -> None:
    found = needed_kernels()
    assert {kernel[0] for kernel in found.values()} >= {"conv", "linear", "batchnorm", "multiply", "slice", "concat"}
    for kernel in found.values():
        assert difference(kernel, 1, 4, runtime_here())[kernel] == 3, kernel
        layers = specimen(kernel, 4)
        assert run_by_profile(layers) == run_by_runtime(layers, tmp_path), kernel


def test_every_kind_of_row_has_a_specimen() -> None:
    for kind in KINDS:
        kernel = (kind, "plain", 3 if kind == "avgpool" else 1, 1, 1, 4, 4, 8, 2 if kind in ("slice", "concat") else 8)
        assert kind in {layer.kind for layer in specimen(kernel, 1)}
    with pytest.raises(InputError, match=r"can be made of conv, .* got 'softmax'"):
        specimen(("softmax", "plain", 1, 1, 1, 4, 4, 8, 8), 1)


# planning


def test_a_plan_covers_what_is_needed_with_fewer_points() -> None:
    needed = [
        ("conv", "plain", 1, 1, 1, 8, 8, channels_in, channels_out)
        for channels_in in range(8, 129, 8)
        for channels_out in range(8, 129, 8)
    ]
    planned = plan(needed, {}, "onnxruntime")
    points = {kernel[7:]: 1.0 for kernel in planned if kernel[:7] == needed[0][:7]}
    assert all(interpolate(points, *kernel[7:]) is not None for kernel in needed)
    assert len(points) == 24
    assert plan(needed, {needed[0][:7]: set(points)}, "onnxruntime") == []  # what is known is not planned again


def test_helpers_are_measured_before_what_needs_them() -> None:
    runtime = runtime_here()
    counts = Counter(kernel for config in NETWORKS.values() for kernel, _ in kernels(rows(config), runtime))
    todo = ordered(plan(counts, {}, runtime), counts, runtime)
    done: dict[tuple, dict[tuple[int, int], float]] = {}
    for kernel in todo:
        for helper in difference(kernel, 1, 3, runtime):
            if helper != kernel:
                assert interpolate(done.get(helper[:7], {}), *helper[7:]) is not None, (kernel, helper)
        done.setdefault(kernel[:7], {})[kernel[7:]] = 1.0
    for kernel in counts:
        assert interpolate(done[kernel[:7]], *kernel[7:]) is not None, kernel


def test_large_weights_are_timed_in_parts_that_stay_in_the_cache() -> None:
    small, large = (("conv", "blocked", 3, 1, 1, 4, 4, channels, channels) for channels in (64, 512))
    assert timed_part(small) == (small, 1.0)
    part, share = timed_part(large)
    assert part[:8] == large[:8]
    assert part[8] * share == 512
    assert part[8] % 16 == 0
    for kernel in (small, part):
        assert (1 + copies_of(kernel)) * 4 * weights(kernel) <= WEIGHT_BYTES
        assert copies_of(kernel) >= 1
    depthwise = ("conv", "blocked", 3, 1, -1, 4, 4, 4096, 4096)
    assert weights(depthwise) == 9 * 4096
    assert timed_part(depthwise) == (depthwise, 1.0)


def test_overhead_and_scale_are_found_again() -> None:
    summed = np.linspace(0.05, 0.3, 12)
    assert measure.fit([(ms, 0.004 + 1.08 * ms) for ms in summed])[:2] == (pytest.approx(0.004), pytest.approx(1.08))
    # a negative overhead is no overhead, and a single network fixes the scale alone
    overhead, scale, *_ = measure.fit([(ms, 1.08 * ms - 0.01) for ms in summed])
    assert overhead == 0
    assert 0.95 < scale < 1.08
    assert measure.fit([(0.2, 0.22)])[:2] == (0.0, pytest.approx(1.1))


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_streaming_is_found_where_it_is_and_not_where_it_is_not(noise: float) -> None:
    generator = np.random.default_rng(0)
    summed, megabytes = generator.uniform(0.2, 2.0, 24), generator.uniform(0.5, 30.0, 24)
    factor = generator.normal(1.0, noise, 24)
    streamed = 0.01 + 1.05 * summed + 0.05 * np.maximum(0.0, megabytes - 12.0)
    found = measure.fit(list(zip(summed, streamed * factor, megabytes, strict=True)))
    assert found.cache_mb == 12.0
    assert found == pytest.approx((0.01, 1.05, 12.0, 0.05), rel=0.001 + 3 * noise, abs=1e-6 + noise)
    assert found.predict(1.0, 20.0) == pytest.approx(0.01 + 1.05 + 0.05 * 8, rel=0.001 + 2 * noise)
    cached = measure.fit(list(zip(summed, (0.01 + 1.05 * summed) * factor, megabytes, strict=True)))
    assert cached.ms_per_mb == pytest.approx(0.0, abs=1e-9)
    small = measure.fit(list(zip(summed, streamed * factor, np.minimum(megabytes, 2.0), strict=True)))
    assert small.ms_per_mb == pytest.approx(0.0, abs=1e-9)


# measuring


def test_a_profile_is_measured_kept_and_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "host.toml"
    seen: list[tuple[str, float]] = []
    profile = measure_profile(
        "host", TINY, path=path, budget_seconds=60, progress=lambda label, share: seen.append((label, share))
    )
    assert read_profile(path) == profile
    assert profile.runtime == runtime_here()
    assert all(row.ms > 0 for row in profile.rows)
    assert profile.scale["fp32/1/8x8"] > 0
    (entry,) = profile.provenance
    assert entry["rows"] == len(profile.rows)
    assert (entry["complete"], entry["image"], entry["setting"]) == (True, "8x8", "fp32/1")
    assert entry["runtime"].startswith("onnxruntime")
    assert {"cpu", "when", "stable", "reference_spread"} <= set(entry)
    agreed = profile.validation["fp32/1/8x8"]
    assert agreed["n"] + len(entry["calibration"]) == len(TINY)
    assert {"within_2", "within_5", "within_10", "mape", "worst", "seconds"} <= set(agreed)
    assert all(0 <= share <= 1 for _, share in seen)
    latencies = [profile.latency(layers, Target()) for layers in TINY]
    # noise may hide the smallest kernel, which then honestly counts as not measured
    assert all(0.95 < measured <= 1 + 1e-9 for _, measured in latencies)
    assert latencies[0][0] < latencies[-1][0]  # 8 channels against 32, five times the work
    assert measure_profile("host", TINY, path=path) == profile

    larger = [rows(network((1, 1, 1), (8, 8, 8), (False, False, False), size=16))]
    both = measure_profile("host", larger, path=path, budget_seconds=60)
    assert set(profile.rows) < set(both.rows)
    # another resolution has its own calibration; only what noise had hidden is estimated from more rows now
    assert both.latency(TINY[0], Target())[0] == pytest.approx(latencies[0][0], rel=0.01)
    assert both.scale["fp32/1/8x8"] == profile.scale["fp32/1/8x8"]
    assert both.latency(larger[0], Target())[1] > 0.95
    assert [entry["image"] for entry in both.provenance] == ["8x8", "16x16"]


class Known:
    """A timer that knows what every kernel takes; `wrong` is what the first timing of a kernel is multiplied by."""

    def __init__(self, runtime: str, wrong: float = 1.0) -> None:
        self.runtime, self.wrong = runtime, wrong
        self.pace, self.spread, self.passes, self.waited, self.timed = 1.0, 0.0, 1, 0.0, Counter()

    @staticmethod
    def ms(kernel) -> float:
        return 1e-3 * (1 + work(kernel)[1] / 1e5 + work(kernel)[2] / 1e6)

    def difference(self, kernel, copies: int) -> float:
        self.timed[kernel] += 1
        more = difference(kernel, 1, copies, self.runtime)
        share = self.wrong if self.timed[kernel] == 1 else 1.0
        return share * sum(count * self.ms(found) for found, count in more.items())


def test_the_median_of_the_passes_is_kept(tmp_path: Path) -> None:
    """One of three timings of each kernel is half too large; the table holds the true time of each all the same."""
    runtime = runtime_here()
    timer = Known(runtime, wrong=1.5)
    empty = Profile("host", "known", runtime)
    measurement = measure.Measurement(empty, tmp_path / "host.toml", Target("host"), timer, lambda label, share: None)
    measurement.rows(TINY, math.inf, 3)
    assert set(timer.timed.values()) == {3}
    profile = read_profile(tmp_path / "host.toml")
    parts = {row.kernel: row.ms for row in profile.rows}
    assert len(parts) > 10
    wrong = {kernel for kernel, ms in parts.items() if abs(ms / Known.ms(kernel) - 1) > 1e-3}
    # a helper that was too large in the first pass makes what needs it too small in that pass only
    assert not wrong


def test_a_later_call_does_not_fit_to_sums_of_estimates_nor_check_on_what_was_fitted(tmp_path: Path) -> None:
    """Networks take 1.1 times their kernels; the first call knows the kernels of one of them, the second of all."""
    runtime = runtime_here()
    timer = Known(runtime)

    def whole(layers) -> float:
        return 1.1 * sum(Known.ms(kernel) for kernel, _ in kernels(layers, runtime))

    def call(known: Profile, covered, counts: tuple[int, int]) -> Profile:
        measurement = measure.Measurement(
            known, tmp_path / "host.toml", Target("host"), timer, lambda label, share: None
        )
        measurement.rows(covered, math.inf)
        measurement.whole_networks(TINY, whole, math.inf, counts)
        return measurement.profile

    first = call(Profile("host", "known", runtime), TINY[:1], (3, 1))
    assert len(first.provenance[-1]["calibration"]) <= 1, "the sums of the others are estimates"
    second = call(first, TINY, (2, 2))
    assert second.scale["fp32/1/8x8"] == pytest.approx(1.1, rel=1e-3)
    fitted = {pair[3] for pair in second.provenance[-1]["calibration"]}
    before = {pair[3] for pair in first.provenance[-1]["calibration"]}
    assert second.validation["fp32/1/8x8"]["n"] == len(TINY) - len(fitted | before)
    assert second.validation["fp32/1/8x8"]["mape"] < 1e-3


def test_the_agreement_of_predictions_is_counted_by_hand() -> None:
    """Four networks, predicted 1 %, 4 %, 8 % and 20 % too high; then two of them in the wrong order."""
    pairs = [(1.01, 1.0, 0.0), (2.08, 2.0, 0.0), (4.32, 4.0, 0.0), (4.2, 3.5, 0.0)]
    numbers = agreement(pairs, Calibration(0.0, 1.0))
    assert numbers == {
        "n": 4,
        "within_2": 0.25,
        "within_5": 0.5,
        "within_10": 0.75,
        "mape": pytest.approx((0.01 + 0.04 + 0.08 + 0.2) / 4),
        "worst": pytest.approx(0.2),
        "spearman": pytest.approx(1.0),
    }
    crossed = [*pairs[:3], (4.4, 3.5, 0.0)]
    assert agreement(crossed, Calibration(0.0, 1.0))["spearman"] == pytest.approx(1 - 6 * 2 / (4 * 15))


def test_an_interrupted_measurement_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "host.toml"

    def interrupt(label: str, share: float) -> None:
        if share > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_profile("host", TINY[:2], path=path, progress=interrupt)
    begun = read_profile(path)
    assert begun.rows
    assert not begun.provenance[0]["complete"]
    assert not begun.scale
    whole = measure_profile("host", TINY[:2], path=path)
    assert set(begun.rows) < set(whole.rows)
    assert [(entry["complete"], entry["rows"]) for entry in whole.provenance] == [(True, len(whole.rows))]
    assert whole.provenance[0]["reference_ms"] == begun.provenance[0]["reference_ms"]


class Quickening(Known):
    """In the place of the stopwatch: a machine of these paces, of which each but the last is outrun after a while."""

    paces: ClassVar[list[float]] = [0.05, 0.04, 0.03]
    answers = 20

    def __init__(self, threads: int, *, precision: str, pace: float | None, strict: bool) -> None:
        super().__init__(runtime_here())
        self.pace, self.strict = pace or self.paces[0], strict

    def difference(self, kernel, copies: int) -> float:
        if self.strict and self.timed.total() >= self.answers and self.pace > self.paces[-1]:
            raise Outrun(self.paces[self.paces.index(self.pace) + 1])
        return self.pace * super().difference(kernel, copies)

    def network(self, layers) -> float:
        return self.pace * sum(self.ms(kernel) for kernel, _ in kernels(layers, self.runtime))


def test_a_table_is_of_one_pace_if_the_machine_becomes_quicker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "Stopwatch", Quickening)
    monkeypatch.setattr(measure, "OUTRUN_AT_MOST", 2)
    said: list[str] = []
    profile = measure_profile(
        "host", TINY, path=tmp_path / "host.toml", progress=lambda label, share: said.append(label)
    )
    assert [line for line in said if "times as fast" in line] == [
        "the machine has become 1.25 times as fast: from the beginning",
        "the machine has become 1.33 times as fast: from the beginning",
    ]
    assert [entry["reference_ms"] for entry in profile.provenance] == [0.03]
    assert profile.provenance[0]["rows"] == len(profile.rows) > Quickening.answers
    for row in profile.rows:
        assert row.ms == pytest.approx(0.03 * Known.ms(row.kernel), rel=1e-3), "of the last pace alone"
    assert read_profile(tmp_path / "host.toml") == profile


def test_a_table_is_measured_anew_where_a_timing_has_seen_a_quicker_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "Stopwatch", Quickening)
    path = tmp_path / "host.toml"
    monkeypatch.setattr(Quickening, "paces", [0.05])
    slow = measure_profile("host", TINY, path=path)
    monkeypatch.setattr(Quickening, "paces", [0.03])
    assert measure_profile("host", TINY, path=path, quickest=0.048) == slow, "that is no other pace"
    quick = measure_profile("host", TINY, path=path, quickest=0.03)
    assert [entry["reference_ms"] for entry in quick.provenance] == [0.03]
    assert {row.kernel for row in quick.rows} == {row.kernel for row in slow.rows}
    of_slow = {row.kernel: row.ms for row in slow.rows}
    assert all(row.ms == pytest.approx(0.6 * of_slow[row.kernel], rel=1e-3) for row in quick.rows)
    assert set(quick.scale) == set(slow.scale)


def test_rows_are_written_while_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "host.toml"
    monkeypatch.setattr(measure, "SAVE_SECONDS", 0.0)
    kept: list[int] = []
    measure_profile(
        "host",
        TINY[:1],
        path=path,
        progress=lambda label, share: kept.append(len(read_profile(path).rows) if path.is_file() else 0),
    )
    assert kept[:4] == [0, 1, 2, 3]


def test_a_spent_budget_leaves_estimates_that_are_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(10_000))
    monkeypatch.setattr(measure.time, "monotonic", lambda: float(next(now)))
    profile = measure_profile("host", TINY, path=tmp_path / "host.toml", budget_seconds=30)
    ms, measured = profile.latency(TINY[0], Target())
    assert 0 < len(profile.rows) < 30
    assert math.isfinite(ms)
    assert 0 < measured < 1


def test_rows_of_the_base_are_kept_and_those_of_another_runtime_refused(tmp_path: Path) -> None:
    first = measure_profile("host", TINY[:1], path=tmp_path / "first.toml")
    again = measure_profile("other", TINY[:1], base=first, path=tmp_path / "second.toml")
    assert set(first.rows) <= set(again.rows), "a row that noise hid is measured anew, the others are kept"
    foreign = Profile("foreign", "v", "onnxruntime-nchwc8" if runtime_here() != "onnxruntime-nchwc8" else "onnxruntime")
    with pytest.raises(InputError, match="rows of one runtime make a profile"):
        measure_profile(
            "mine", TINY[:1], base=Profile("foreign", "v", foreign.runtime, rows=first.rows), path=tmp_path / "x.toml"
        )


def test_a_measurement_needs_networks_and_time(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one network"):
        measure_profile("host", [], path=tmp_path / "host.toml")
    with pytest.raises(InputError, match="takes seconds > 0"):
        measure_profile("host", TINY, budget_seconds=0, path=tmp_path / "host.toml")


# timing


@pytest.mark.parametrize("as_file", [False, True])
def test_a_timing_has_its_evidence(as_file: bool, tmp_path: Path) -> None:
    serialised = graph_of(TINY[0]).SerializeToString()
    (tmp_path / "model.onnx").write_bytes(serialised)
    timing = time_model(
        tmp_path / "model.onnx" if as_file else serialised, seconds=0.2, sessions=2, warm_seconds=0.01, warm_runs=5
    )
    assert 0 < timing.low_ms <= timing.p50_ms <= timing.p95_ms
    assert timing.p50_ms <= timing.high_ms
    assert timing.runs >= 2 * 3 * 3
    assert not timing.stable or (timing.within <= 0.025 and timing.between <= 0.05)
    assert 0 <= timing.at_pace <= 1
    assert (timing.threads, timing.provider) == (1, "CPUExecutionProvider")
    assert 2 <= timing.sessions <= 6
    assert timing.runtime.startswith("onnxruntime ")
    assert "denormals" in timing.runtime
    assert timing.reference_ms > 0
    assert set(timing.to_dict()) >= {"p50_ms", "p95_ms", "runs", "stable", "runtime", "threads", "provider"}


def test_a_model_that_does_not_load_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a model that ONNX Runtime loads, these bytes"):
        time_model(b"not a model", seconds=0.1)
    with pytest.raises(InputError, match=r"loads, .*nowhere\.onnx"):
        time_model(tmp_path / "nowhere.onnx", seconds=0.1)
    with pytest.raises(InputError, match="takes seconds > 0"):
        time_model(b"", seconds=0)
