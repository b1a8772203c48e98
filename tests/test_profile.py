"""Fusion, tables and profiles against hand arithmetic; what is on disk comes back, or is refused in a sentence."""

from __future__ import annotations

import json
import os
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from rcnas_edge.cli import cli
from rcnas_edge.cost.breakdown import breakdown
from rcnas_edge.errors import InputError
from rcnas_edge.nets.rows import RowWriter
from rcnas_edge.profile import (
    Domain,
    Key,
    Profile,
    Row,
    Target,
    cache_path,
    list_profiles,
    load_profile,
    machine,
    read_profile,
    save_profile,
)
from rcnas_edge.profile.format import KEYS
from rcnas_edge.profile.fusion import OPERATIONS, RUNTIMES, Group, fuse, kernels
from rcnas_edge.profile.provenance import GROUPS, KINDS, OWED, OWED_IF_MEASURED
from rcnas_edge.profile.rates import RATED, Rate, Rates
from rcnas_edge.profile.row import COLUMNS
from rcnas_edge.profile.table import Table, interpolate, work
from rcnas_edge.profile.validation import VALIDATED
from rcnas_edge.space import IMAGE, Layer
from rcnas_edge.testing import networks, profile_conformance

BLOCKED = "onnxruntime-nchwc16"


def preactivation() -> tuple[Layer, ...]:
    """stem, then bn-relu-conv-bn-relu-conv plus the identity, then bn-relu-pool-linear: a basic block by hand."""
    write = RowWriter((3, 8, 8))
    stem = write.convolution("stem", write.elementwise("normalize", "normalize", IMAGE), 16, kernel=3)
    active = write.normalised_relu("norm1", "relu1", stem)
    out = write.normalised_relu("norm2", "relu2", write.convolution("conv1", active, 16, kernel=3))
    out = write.elementwise("add", "add", write.convolution("conv2", out, 16, kernel=3), stem)
    out = write.normalised_relu("norm", "relu", out)
    write.linear("classifier", write.global_pool("pool", out), 10, bias=True)
    return tuple(write.rows)


def names(groups: tuple[Group, ...]) -> list[str]:
    return ["+".join(layer.name for layer in group.layers) or group.key.operation for group in groups]


def key(operation: str, *, kernel: int = 1, size: int = 8, layout: str = "plain") -> Key:
    return Key(operation, layout, kernel, 1, 1, size, size)


# fusion


def test_plain_runtime_folds_normalisation_and_relu_but_not_what_precedes_a_convolution() -> None:
    assert names(fuse(preactivation(), "onnxruntime")) == [
        "normalize",
        "stem",
        "norm1",
        "relu1",
        "conv1+norm2+relu2",
        "conv2",
        "add",
        "norm",
        "relu",
        "pool",
        "classifier",
    ]


def test_blocked_runtime_takes_the_sum_into_the_convolution_and_reorders_for_the_pool() -> None:
    groups = fuse(preactivation(), BLOCKED)
    assert names(groups) == [
        "normalize",
        "stem",
        "norm1+relu1",
        "conv1+norm2+relu2",
        "conv2+add",
        "norm+relu",
        "to_plain",
        "pool",
        "classifier",
    ]
    stem, conv1 = groups[1], groups[3]
    assert (stem.key.layout, stem.channels_in, stem.channels_out) == ("entering", 3, 16)
    assert (conv1.key.layout, conv1.key.kernel, conv1.key.height, conv1.fused) == (
        "blocked", 3, 8, ("batchnorm", "relu"),
    )  # fmt: skip


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_row_is_in_one_group(runtime: str) -> None:
    rows = preactivation()
    grouped = [layer for group in fuse(rows, runtime) for layer in group.layers]
    assert sorted(layer.name for layer in grouped) == sorted(layer.name for layer in rows)


def test_a_convolution_read_twice_keeps_its_normalisation_apart() -> None:
    write = RowWriter((16, 4, 4))
    out = write.convolution("conv", IMAGE, 16, kernel=1)
    write.elementwise("add", "add", out, write.elementwise("norm", "batchnorm", out))
    assert names(fuse(write.rows, BLOCKED)) == ["to_blocked", "conv", "norm", "add", "to_plain"]


def test_slices_of_one_tensor_are_one_split_and_channels_count_in_whole_blocks() -> None:
    write = RowWriter((3, 4, 4))
    out = write.convolution("conv", IMAGE, 24, kernel=3)
    parts = [write.channels(f"slice{start}", out, start, 8) for start in (0, 8, 16)]
    write.concatenate("concat", *parts)
    conv, reorder, split, concat = fuse(write.rows, BLOCKED)
    assert conv.channels_out == 32  # two blocks of 16
    assert (reorder.key.operation, reorder.channels_in) == ("to_plain", 24)
    assert (split.key.operation, split.channels_in, split.channels_out) == ("slice", 24, 3)
    assert (concat.key.layout, concat.channels_in, concat.channels_out) == ("plain", 24, 3)


def test_unknown_runtime_is_refused() -> None:
    with pytest.raises(InputError, match=r"known for onnxruntime, .*, got 'coreml'"):
        fuse(preactivation(), "coreml")


# the table


def bilinear(channels_in: int, channels_out: int) -> float:
    return 0.3 + 0.02 * channels_in + 0.01 * channels_out + 0.001 * channels_in * channels_out


GRID = {(a, b): bilinear(a, b) for a in (16, 64, 128) for b in (16, 48, 128)}


@pytest.mark.parametrize("point", [(16, 16), (32, 16), (16, 100), (100, 100), (128, 64), (127, 17)])
def test_inside_the_grid_a_bilinear_cost_is_exact(point: tuple[int, int]) -> None:
    assert interpolate(GRID, *point) == pytest.approx(bilinear(*point), rel=1e-12)


@pytest.mark.parametrize("point", [(8, 16), (129, 64), (64, 8), (64, 256)])
def test_outside_the_grid_there_is_no_answer(point: tuple[int, int]) -> None:
    assert interpolate(GRID, *point) is None


def test_a_surface_measured_along_a_ray_answers_on_the_ray_only() -> None:
    points = {(16, 16): 1.0, (64, 64): 4.0, (16, 32): 1.5, (64, 128): 6.0}
    assert interpolate(points, 40, 40) == pytest.approx(2.5)
    assert interpolate(points, 40, 80) == pytest.approx(3.75)
    assert interpolate(points, 40, 60) is None


def test_a_hole_in_the_grid_widens_the_rectangle() -> None:
    holed = {point: ms for point, ms in GRID.items() if point != (64, 48)}
    assert interpolate(holed, 70, 40) == pytest.approx(bilinear(70, 40))


def test_answers_grow_with_the_work_inside_and_outside_the_grid() -> None:
    convolution = key("conv", kernel=3)
    table = Table({convolution: GRID})
    answers = [table.lookup((*convolution, channels, channels)) for channels in (4, 16, 40, 64, 128, 200, 400)]
    assert [ms for ms, _ in answers] == sorted(ms for ms, _ in answers)
    assert [measured for _, measured in answers] == [False, True, True, True, True, False, False]
    assert answers[0][0] > 0


def test_an_operation_without_rows_is_estimated_by_the_rate_of_the_table() -> None:
    def ms(kernel: tuple) -> float:  # the rate that the fit has to find again
        one, macs, moved = work(kernel)
        return 0.001 * one + 2e-8 * macs + 1e-7 * moved

    convolution = key("conv", kernel=3)
    known = [*convolution, 0, 0]
    table = Table({convolution: {(a, b): ms((*known[:7], a, b)) for a in (16, 64, 128) for b in (16, 48, 128)}})
    other = (*key("conv", kernel=1, size=4), 32, 64)
    assert table.lookup(other) == (pytest.approx(ms(other), rel=1e-6), False)
    assert table.lookup((*key("relu"), 16, 16))[0] > 0


# profiles


MEASURED = {
    "covers": ["table", "overhead"],
    "kind": "measured",
    "when": "2026-11-21T10:00:00+00:00",
    "source": "a board on the desk",
    "setting": "fp32/1",
    "runtime": "onnxruntime 1.22.0",
    "threads": 1,
    "clocks": "unknown",
    "load": 0.1,
    "reference_ms": 0.2,
    "stable": True,
    "calibration": [[1.0, 1.25]],
}
FITTED = {"covers": ["rates", "overhead"], "kind": "third party", "when": "2024", "source": "a paper", "fit": "nnls"}


def one_of_each(profile_runtime: str = "onnxruntime", **changes: object) -> Profile:
    """A profile whose table has every kernel of `preactivation`, the i-th (from 1) at i / 100 ms."""
    kernels = dict.fromkeys(
        (group.key, group.channels_in, group.channels_out) for group in fuse(preactivation(), profile_runtime)
    )
    rows = tuple(Row("fp32", 1, *kernel, ms=index / 100) for index, kernel in enumerate(kernels, start=1))
    values = {"overhead_ms": {"fp32/1": 0.5}, "scale": {"fp32/1": 1.1}, "provenance": (MEASURED,)}
    return Profile("bench", 'a "quoted" vendor', profile_runtime, **{"rows": rows, **values, **changes})


def test_latency_is_overhead_plus_scaled_sum() -> None:
    # 11 kernels of which conv1 and conv2 are one row: rows 1 (normalize) 2 (stem) 3 norm 4 relu 5 conv 5 conv 6 add ...
    profile = one_of_each()
    assert len(profile.rows) == 8
    expected = sum([1, 2, 3, 4, 5, 5, 6, 3, 4, 7, 8]) / 100
    assert profile.latency(preactivation(), Target("bench")) == (pytest.approx(0.5 + 1.1 * expected), 1.0)


def test_weights_beyond_the_cache_are_streamed() -> None:
    megabytes = 4e-6 * sum(row.parameters for row in preactivation() if row.kind in ("conv", "linear"))
    without = one_of_each().latency(preactivation(), Target())[0]
    for cache, beyond in ((0.25 * megabytes, 0.75 * megabytes), (2 * megabytes, 0.0)):
        profile = one_of_each(streaming={"fp32/1": (cache, 40.0)})
        assert profile.latency(preactivation(), Target())[0] == pytest.approx(without + 40 * beyond)
    sized = one_of_each(scale={"fp32/1": 1.1, "fp32/1/8x8": 1.1}, streaming={"fp32/1": (0.0, 40.0)})
    assert sized.latency(preactivation(), Target())[0] == pytest.approx(without)  # this image size has seen none
    with pytest.raises(InputError, match=r"MB of cache, ms per MB beyond.* got -1\.0"):
        one_of_each(streaming={"fp32/1": (-1.0, 40.0)})


def test_what_no_row_covers_is_reported_as_a_share() -> None:
    whole = one_of_each(overhead_ms={}, scale={})
    pooled = next(row for row in whole.rows if row.key.operation == "globalpool")
    profile = one_of_each(overhead_ms={}, scale={}, rows=tuple(row for row in whole.rows if row is not pooled))
    ms, measured = profile.latency(preactivation(), Target("bench"))
    estimate = ms - (0.48 - pooled.ms)
    assert estimate > 0
    assert measured == pytest.approx(1 - estimate / ms)


def test_calibration_of_the_image_size_comes_before_the_general_one() -> None:
    general, own = one_of_each(), one_of_each(scale={"fp32/1": 1.1, "fp32/1/8x8": 2.0})
    sum_ms = (general.latency(preactivation(), Target())[0] - 0.5) / 1.1
    assert own.latency(preactivation(), Target())[0] == pytest.approx(0.5 + 2.0 * sum_ms)


def test_a_setting_without_rows_is_refused() -> None:
    profile = one_of_each()
    assert profile.covers(Target("bench"))
    assert not profile.covers(Target("bench", threads=4))
    with pytest.raises(InputError, match="has fp32/1 but not fp32/4: measure it"):
        profile.latency(preactivation(), Target("bench", threads=4))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("host", Target()),
        ("pi5/int8", Target("pi5", "int8")),
        ("host/fp32/2", Target("host", "fp32", 2)),
    ],
)
def test_targets_are_written_and_read(text: str, target: Target) -> None:
    assert Target.parse(text) == target
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize("text", ["", "host/fp8", "host/fp32/x", "host/fp32/0", "a/fp32/1/2"])
def test_bad_targets_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="got"):
        Target.parse(text)


PHONE = Rates(
    {
        "conv": Rate(ms=0.01, ms_per_mmac=0.5, ms_per_mb=2.0),
        "depthwise": Rate(ms=0.02, ms_per_mb=4.0),
        "add": Rate(ms_per_mb=3.0),
        "globalpool": Rate(ms_per_mb=5.0),
        "other": Rate(ms=0.1),
    }
)

# domain, limits, validation, origin


def test_outside_the_domain_nothing_counts_as_measured_and_words_say_why() -> None:
    plain = one_of_each()
    inside = one_of_each(domain=Domain(images=("8x8", "16x16")))
    assert inside.latency(preactivation(), Target()) == plain.latency(preactivation(), Target())
    assert inside.outside(preactivation()) == ""
    outside = one_of_each(domain=Domain(images=("224x224",)))
    assert outside.latency(preactivation(), Target()) == (plain.latency(preactivation(), Target())[0], 0.0)
    words = "images of 8x8, its numbers are for 224x224: its latencies count as not measured"
    assert outside.outside(preactivation()) == f"the profile 'bench' is asked for {words}"
    batched = one_of_each(domain=Domain(batch=8))
    assert batched.latency(preactivation(), Target())[1] == 0.0
    assert "a single image, its numbers are for batches of 8" in batched.outside(preactivation())
    assert not any(part.measured for part in breakdown(preactivation(), outside, Target()))
    assert all(part.measured for part in breakdown(preactivation(), inside, Target()))
    assert len({plain.digest(), outside.digest(), batched.digest()}) == 3


def test_limits_of_the_device_are_in_bytes_and_owe_their_provenance() -> None:
    profile = one_of_each(memory_mb=16, disk_mb=0.5)
    assert profile.limits == {"memory": 16e6, "size": 0.5e6}
    assert one_of_each().limits == {}
    with pytest.raises(InputError, match="no entry covers 'limits'"):
        profile.check_provenance()


def test_all_of_a_profile_comes_back(tmp_path: Path) -> None:
    profile = one_of_each(
        rates={"fp32/1": PHONE, "int8/4": PHONE},
        precisions=("fp32", "int8"),
        threads=(1, 4),
        domain=Domain(("8x8", "224x160"), 1),
        memory_mb=0.25,
        disk_mb=4.0,
        streaming={"fp32/1/8x8": (4.0, 0.25)},
        validation={"fp32/1": {"n": 30, "within_5": 0.5, "spearman": -0.2, "worst": 1.5}, "fp32/1/8x8": {"n": 1}},
        description='of two\nlines, with "quotes" and \\',
        provenance=(MEASURED, {**FITTED, "covers": ["rates", "limits"], "free": {"keys of": [[1, 2.5], [True]]}}),
    )
    back = read_profile(save_profile(profile, tmp_path))
    assert back == profile
    assert back.digest() == profile.digest()
    profile_conformance(profile)


@pytest.mark.parametrize(
    ("changes", "setting", "words"),
    [
        ({}, "fp32/1", "measured on a board on the desk, 2026-11-21"),
        (
            {"provenance": ({**MEASURED, "stable": False, "setting": "fp32/1/8x8"},)},
            "fp32/1",
            "measured on a board on the desk, 2026-11-21, UNSTEADY",
        ),
        ({"on_first_use": True}, "fp32/4", "measured on first use"),
        ({}, "fp32/4", "not measured, no latencies"),
        ({"provenance": ()}, "fp32/1", "of unknown origin"),
        ({"provenance": ({**MEASURED, "setting": "fp32/2"},)}, "fp32/1", "of unknown origin"),
        (
            {"rows": (), "rates": {"fp32/1": PHONE}, "provenance": ({**FITTED, "held_out_error": 0.0612},)},
            "fp32/1",
            "third party measurements, fitted (MAPE 6.1 % held out): a paper, 2024",
        ),
        (
            {
                "rates": {"fp32/1": PHONE},
                "provenance": (MEASURED, {"covers": ["rates"], "kind": "estimate", "when": "now", "source": "a sheet"}),
            },
            "fp32/1",
            "measured on a board on the desk, 2026-11-21; the rest ESTIMATE, not measured: a sheet, now",
        ),
    ],
)
def test_the_origin_of_latencies_is_one_line(changes: dict, setting: str, words: str) -> None:
    assert one_of_each(**changes).origin(Target.parse(f"bench/{setting}")) == words


@pytest.mark.parametrize("runtime", ["tflite", "pytorch-mobile"])
def test_rates_of_phones_are_never_measured_from_here(runtime: str) -> None:
    entry = {**MEASURED, "covers": ["rates"]}
    with pytest.raises(
        InputError, match=f"rates of {runtime} are not measured from here, .* its kind is 'third party'"
    ):
        Profile("p", "v", runtime, rates={"fp32/1": PHONE}, provenance=(entry,)).check_provenance()
    Profile("p", "v", "tensorrt", rates={"fp32/1": PHONE}, provenance=(entry,)).check_provenance()


def test_numbers_without_provenance_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no entry covers 'table'"):
        save_profile(one_of_each(provenance=()), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "Bench"}, "name of a profile is made of .*, got 'Bench'"),
        ({"vendor": "\ud800"}, r"vendor is a text without control characters, got '\\ud800'"),
        ({"rows": "fp32"}, "rows is a list of rows"),
        ({"rates": {"fp32/1/8x8": PHONE}}, 'a key of rates is "precision/threads", as "fp32/1"'),
        ({"rates": {"fp32/1": {}}}, "rates of fp32/1 is a value of Rates"),
        ({"domain": "8x8"}, "domain is a value of Domain"),
        ({"provenance": ({"covers": object()},)}, "provenance 1 covers is text, numbers, true or false, or lists"),
    ],
)
def test_a_profile_made_in_python_is_checked_too(changes: dict, words: str) -> None:
    values = {"name": "bench", "vendor": "v", "runtime": "onnxruntime"}
    with pytest.raises(InputError, match=words):
        Profile(**(values | changes))


class Shrinking(Rates):
    """Rates that no file can hold: more work takes less time."""

    def of(self, kernel: tuple) -> float:
        return 1.0 / (1.0 + kernel[7] * kernel[5])


class Random(Rates):
    """Rates that differ every time."""

    def of(self, kernel: tuple) -> float:
        return super().of(kernel) * random.random()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"provenance": ()}, "no entry covers 'table'"),
        (
            {"rates": {"fp32/1": Shrinking({"other": Rate(1.0)})}, "provenance": (MEASURED, FITTED)},
            "comes back from disk",
        ),
        ({"rates": {"fp32/1": Random({"other": Rate(1.0)})}, "provenance": (MEASURED, FITTED)}, "comes back from disk"),
    ],
)
def test_what_does_not_conform_is_one_sentence(changes: dict, words: str) -> None:
    profile_conformance(one_of_each())
    with pytest.raises(AssertionError, match=words) as error:
        profile_conformance(one_of_each(**changes))
    assert len(str(error.value).splitlines()) == 1


def test_the_parts_of_the_conformance_check_each_find_their_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = one_of_each(rows=(), rates={"fp32/1": PHONE}, provenance=(FITTED,))
    profile_conformance(profile)
    for fault, words in (
        (
            lambda rates, kernel: 1.0 / (1 + kernel[7] * kernel[5]),
            "a rate grows with the work, normalize of bench/fp32/1",
        ),
        (lambda rates, kernel: 0.0, "every kernel takes a finite time above 0, normalize of the network 'residual'"),
        (lambda rates, kernel: float("inf"), "every kernel takes a finite time above 0"),
        (lambda rates, kernel: 1.0 + random.random(), "a latency is the same every time and from disk"),
    ):
        monkeypatch.setattr(Rates, "of", fault)
        with pytest.raises(AssertionError, match=words):
            profile_conformance(one_of_each(rows=(), rates={"fp32/1": PHONE}, provenance=(FITTED,)))
    monkeypatch.undo()
    with pytest.raises(AssertionError, match=r"nowhere\.toml: a profile is a file that can be read"):
        profile_conformance(tmp_path / "nowhere.toml")
    with pytest.raises(AssertionError, match="the path of its TOML file is checked, got a int"):
        profile_conformance(3)
    save_profile(profile, tmp_path, stem="other")
    with pytest.raises(AssertionError, match=r"'bench' is in other\.toml"):
        profile_conformance(str(tmp_path / "other.toml"))


def test_the_networks_of_the_conformance_check_have_every_operation() -> None:
    found = {
        kernel[0]
        for layers in networks((3, 32, 32)).values()
        for runtime in RUNTIMES
        for kernel, _ in kernels(layers, runtime)
    }
    assert found == set(OPERATIONS)


# rates


@pytest.mark.parametrize(
    ("kernel", "ms"),
    [
        # 3x3, stride 2, 8x8 -> 4x4: 4 * 6 * 9 = 216 weights, 216 * 16 MACs, 4 bytes of 4 * 64 + 6 * 16 + 216 numbers
        (("conv", "plain", 3, 2, 1, 8, 8, 4, 6), 0.01 + 0.5e-6 * 216 * 16 + 2e-6 * 4 * (256 + 96 + 216)),
        (("conv", "plain", 3, 1, -1, 8, 8, 4, 4), 0.02 + 4e-6 * 4 * (256 + 256 + 36)),
        # groups have no rate here: that of a convolution, with 2 input channels per group
        (("conv", "plain", 1, 1, 2, 8, 8, 4, 4), 0.01 + 0.5e-6 * 8 * 64 + 2e-6 * 4 * (256 + 256 + 8)),
        (("add", "plain", 1, 1, 1, 8, 8, 4, 4), 3e-6 * 4 * 3 * 256),  # two operands are read, one result is written
        (("globalpool", "plain", 1, 1, 1, 8, 8, 4, 4), 5e-6 * 4 * (256 + 4)),
        (("relu", "plain", 1, 1, 1, 8, 8, 4, 4), 0.1),
    ],
)
def test_a_rate_is_what_hand_arithmetic_says(kernel: tuple, ms: float) -> None:
    assert PHONE.of(kernel) == pytest.approx(ms, rel=1e-12)


CONVOLUTIONS = {"depthwise": (3, -1), "grouped": (3, 2), "pointwise": (1, 1), "conv": (3, 1)}
"""Kernel and groups of a convolution that has the rate of this name."""


@pytest.mark.parametrize(
    ("convolution", "names"),
    [
        ("depthwise", ("depthwise", "grouped", "conv", "other")),
        ("grouped", ("grouped", "conv", "other")),
        ("pointwise", ("pointwise", "conv", "other")),
        ("conv", ("conv", "other")),
    ],
)
def test_a_convolution_has_the_nearest_rate_that_there_is(convolution: str, names: tuple[str, ...]) -> None:
    size, groups = CONVOLUTIONS[convolution]
    kernel = ("conv", "plain", size, 1, groups, 8, 8, 4, 4)
    rates = {name: Rate(ms=place + 1.0) for place, name in enumerate((*CONVOLUTIONS, "linear", "other"))}
    for name in names:
        assert Rates(rates).of(kernel) == rates[name].ms
        rates = {other: rate for other, rate in rates.items() if other != name or name == "other"}


def test_a_profile_of_rates_alone_predicts_and_claims_nothing_measured(tmp_path: Path) -> None:
    profile = Profile(
        "phone", "v", "tflite", threads=(4,), rates={"fp32/4": PHONE}, overhead_ms={"fp32/4": 1.0}, provenance=(FITTED,)
    )
    target = Target("phone", threads=4)
    assert profile.covers(target)
    assert not profile.covers(Target("phone"))
    groups = fuse(preactivation(), "tflite")
    expected = 1.0 + sum(PHONE.of((*group.key, group.channels_in, group.channels_out)) for group in groups)
    assert profile.latency(preactivation(), target) == (pytest.approx(expected), 0.0)
    back = read_profile(save_profile(profile, tmp_path))
    assert back == profile
    assert back.digest() == profile.digest() != Profile("phone", "v", "tflite").digest()


def test_rates_stand_in_for_the_fit_where_a_table_has_no_row() -> None:
    profile = one_of_each(overhead_ms={}, scale={})
    pooled = next(row for row in profile.rows if row.key.operation == "globalpool")
    rows = tuple(row for row in profile.rows if row is not pooled)
    both = one_of_each(overhead_ms={}, scale={}, rows=rows, rates={"fp32/1": PHONE})
    whole, ms = profile.latency(preactivation(), Target())[0], both.latency(preactivation(), Target())[0]
    assert ms == pytest.approx(whole - pooled.ms + PHONE.of(pooled.kernel))


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ({"conv": Rate(1.0)}, r"have one called 'other', .*, there is none among \['conv'\]"),
        (
            {"other": Rate(1.0), "convolution": Rate(1.0)},
            "the operation of a rate is one of .*, got 'convolution': did you mean 'conv'",
        ),
        ({"other": Rate(-1.0)}, "ms of other, where it is not 0, is a number from 1e-12 to 1e.07, got -1.0"),
        ({"other": Rate(float("nan"))}, "ms of other, .*, got nan"),
        ({"other": Rate(1.0, ms_per_mb=1e-300)}, "ms_per_mb of other, .*, got 1e-300"),
        ({"other": Rate(ms_per_mmac=1.0)}, "other has ms = 0.0, ms_per_mmac = 1.0"),
        ({"other": Rate(1.0), "conv": Rate()}, "gives every kernel a time above 0, conv has"),
    ],
)
def test_rates_that_leave_a_kernel_without_a_time_are_refused(rates: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Rates(rates)


# on disk


def test_a_profile_comes_back_as_it_was(tmp_path: Path) -> None:
    profile = one_of_each()
    path = save_profile(profile, tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bench.csv", "bench.toml"]
    back = read_profile(path)
    assert back == profile
    assert back.digest() == profile.digest()


def test_the_digest_is_of_latencies_only() -> None:
    profile = one_of_each()
    assert one_of_each(provenance=(), description="other").digest() == profile.digest()
    assert one_of_each(scale={"fp32/1": 1.2}).digest() != profile.digest()
    assert one_of_each(rows=profile.rows[1:]).digest() != profile.digest()
    assert one_of_each(rows=profile.rows[::-1]).digest() == profile.digest()


def test_a_write_that_fails_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    former = one_of_each()
    path = save_profile(former, tmp_path)

    def killed(*names: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_profile(one_of_each(scale={"fp32/1": 9.0}), tmp_path)
    assert read_profile(path) == former
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bench.csv", "bench.toml"]


@pytest.mark.parametrize(
    ("suffix", "old", "new", "message"),
    [
        (".toml", '"schema" = 2', '"schema" = 1', "the schema of a profile is 2, got 1: measure the device anew"),
        (".toml", '"schema" = 2', '"schema" = 3', "the schema of a profile is 2, got 3: install a newer rcnas-edge"),
        (".toml", '"name" = "bench"', '"nome" = "bench"', "no key 'nome': did you mean 'name'"),
        (".toml", '"name" = "bench"\n', "", "there is no name: add it"),
        (
            ".toml",
            '"name" = "bench"',
            '"name" = "../bench"',
            r"name of a profile is made of .*, got '\.\./bench': rename",
        ),
        (".toml", '"runtime" = "onnxruntime"', '"runtime" = "tflight"', "runtime is one of .*did you mean 'tflite'"),
        (".toml", '"schema" = 2', "schema =", "is a TOML file"),
        (".csv", ",ms\n", ",milliseconds\n", "the columns are precision,threads"),
        (".csv", ",0.01\n", ",fast\n", "bench.csv: line 2: ms is a number, got 'fast'"),
        (".csv", ",0.01\n", ",-1\n", "line 2: of the row .* ms is a number above 0 up to 1e.07, got -1.0"),
        (".csv", ",0.01\n", ",nan\n", "ms is a number above 0"),
        (
            ".csv",
            ",0.01\n",
            ",0.01\nfp32,1,conv,plain,3,0,1,8,8,16,16,0.1\n",
            "line 3: .* stride is a whole number from 1",
        ),
        (".csv", ",0.01\n", ",0.01\nfp32,1,conv,plain,3,1,0,8,8,16,16,0.1\n", r"groups \(-1: depthwise\) is a whole"),
        (".csv", ",0.01\n", ",0.01\nfp32,1,conv,plain,3,1,1,8,8,0,16,0.1\n", "channels_in is a whole number from 1"),
        (".csv", ",0.01\n", ",0.01\nfp32,1,convolve,plain,3,1,1,8,8,9,16,0.1\n", "operation is one of .*mean 'conv'"),
        (".csv", ",0.01\n", ",0.01\nfp32,1,conv,plain,3,1,1,8,8,16\n", "a row has 12 cells, got 10: was the file cut"),
        (".csv", ",0.08\n", ",0.0", "the last line of a table ends like the others"),
        (".csv", "fp32,1,linear,plain,1,1,1,1,1,16,10,0.08\n", "", "at least 8 rows, got 7: it was cut"),
        (".toml", '"table" = "bench.csv"', '"table" = 3', "table is a text that is not empty, got 3"),
        (".toml", '"table" = "bench.csv"', '"table" = "../bench.csv"', "table is the bare name of a CSV file"),
        (".toml", '"table" = "bench.csv"\n', "", "there is none for 8 rows: add table"),
        (".toml", '"threads" = [1]', '"threads" = "1"', "threads is a list"),
        (".toml", '"threads" = [1]', '"threads" = [2]', "there are numbers of fp32/1 but .* threads 2: add them"),
        (".toml", '"threads" = [1]', '"threads" = [1, 1]', "threads is a list without repetitions"),
        (".toml", '[scale]\n"fp32/1"', '[scale]\n"fp32/x"', 'a key of scale is "precision/threads"'),
        (".toml", '"on_first_use" = false', '"on_first_use" = "no"', "on_first_use is true or false"),
        (".toml", '[scale]\n"fp32/1" = 1.1', '[scale]\n"fp32/1" = 0', "scale of fp32/1 is a number from 1e-06"),
        (".toml", '[overhead_ms]\n"fp32/1" = 0.5', '[overhead_ms]\n"fp32/1" = "0.5"', "is a number .*got '0.5'"),
        (".toml", "[scale]", "[[scale]]", "scale is a table of keys and values"),
        (".toml", "[[provenance]]", "[provenance]", r"provenance is a list of tables, \[\[provenance\]\]"),
        (".toml", '"covers" = ["table", "overhead"]', '"covers" = ["table"]', "no entry covers 'overhead': add"),
        (".toml", '"covers" = ["table", "overhead"]', '"covers" = ["tables"]', "covers is one of .* mean 'table'"),
        (".toml", '"kind" = "measured"', '"kind" = "guessed"', "provenance 1 kind is one of measured, third party"),
        (".toml", '"source" = ', '"sauce" = ', "provenance 1 .* there is no source: add it; did you mean 'sauce'"),
        (".toml", '"clocks" = "unknown"\n', "", r'there is no clocks: add it \(or clocks = "unknown"\)'),
        (".toml", '"stable" = true', '"stable" = "yes"', "provenance 1 stable is true or false, got 'yes'"),
        (".toml", '"on_first_use"', '"memory_mb" = -1\n"on_first_use"', "memory_mb is a number from 1e-06"),
        (".toml", "[scale]", "[domain]\nimages = [224]\n[scale]", 'domain images is height x width, as "224x224"'),
        (".toml", "[scale]", "[domain]\nimage = []\n[scale]", "domain has no key 'image': did you mean 'images'"),
        (".toml", "[scale]", '[validation."fp32/1"]\nmape = 1\n[scale]', "validation of fp32/1 .* has no n: add it"),
        (".toml", "[scale]", '[validation."fp32/1"]\nn = 9\nworse = 1\n[scale]', "did you mean 'worst'"),
        (".toml", "[scale]", '[validation."fp32/1"]\nn = 9\nwithin_5 = 96\n[scale]', "from 0 to 1, got 96"),
        (".toml", "[scale]", '[rates."fp32/1".conv]\nms = 1\n[scale]', "rates of 'fp32/1': .* called 'other'"),
        (".toml", "[scale]", '[rates."fp32/1".other]\nms_per_mac = 1\n[scale]', "did you mean 'ms_per_mmac'"),
        (".toml", "[scale]", '[rates."fp32/1".other]\nms = 1\n[scale]', "no entry covers 'rates': add"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, suffix: str, old: str, new: str, message: str) -> None:
    path = save_profile(one_of_each(), tmp_path)
    file = path.with_suffix(suffix)
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        read_profile(path)


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = save_profile(one_of_each(), tmp_path)
    table = path.with_suffix(".csv")
    table.write_bytes(table.read_bytes().replace(b"conv", "cönv".encode("latin-1"), 1))
    with pytest.raises(InputError, match=r"the table of a profile is UTF-8 text, byte \d+ of this file is not"):
        read_profile(path)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    path = save_profile(one_of_each(), tmp_path)
    path.with_suffix(".csv").unlink()
    with pytest.raises(
        InputError, match="the table of a profile is a file that can be read, this cannot: No such file"
    ):
        read_profile(path)


def test_host_ships_without_a_table_and_the_cache_of_this_machine_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RCNAS_CACHE", str(tmp_path))
    shipped = load_profile("host")
    assert shipped.on_first_use
    assert not shipped.covers(Target())
    path = cache_path("host")
    save_profile(one_of_each(), path.parent, stem="host-of-another-machine")
    assert load_profile("host") == shipped
    save_profile(
        Profile("host", "here", "onnxruntime", rows=one_of_each().rows, provenance=(MEASURED,)),
        path.parent,
        stem=path.stem,
    )
    assert load_profile("host").covers(Target())
    save_profile(one_of_each(), tmp_path)
    (tmp_path / "broken.toml").write_text("schema =")
    found = {profile.name: profile for profile in list_profiles()}
    assert {"host", "bench"} <= set(found)
    assert found["host"].vendor == "here"


def test_an_unknown_profile_names_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCNAS_CACHE", str(tmp_path / "not-there-yet"))
    with pytest.raises(InputError, match=r"no profile is called 'pi9': it is one of .*host"):
        load_profile("pi9")
    with pytest.raises(InputError, match=r"the name of a profile is made of .*, got '\.\./host': rename it"):
        load_profile("../host")


def test_the_readme_of_the_format_names_every_column_and_key() -> None:
    text = (Path(__file__).parents[1] / "profiles" / "README.md").read_text()
    assert ", ".join(COLUMNS) in " ".join(text.split())
    for word in (*KEYS, *RUNTIMES, *RATED, *Rate._fields, *VALIDATED, *GROUPS, *KINDS, *OWED, *OWED_IF_MEASURED):
        assert f"`{word}`" in text or f"[{word}" in text, word


def test_the_example_in_the_readme_of_the_format_is_a_profile(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "profiles" / "README.md").read_text()
    blocks = dict(re.findall(r"^`([a-z0-9-]+\.(?:toml|csv))`:\n\n```\w+\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    assert sorted(blocks) == ["my-board.csv", "my-board.toml"]
    for name, content in blocks.items():
        (tmp_path / name).write_text(content)
    profile_conformance(tmp_path / "my-board.toml")
    profile = read_profile(tmp_path / "my-board.toml")
    assert profile.rows
    assert set(profile.groups) == set(GROUPS)
    assert profile.validation
    shown = CliRunner().invoke(cli, ["profile", "show", str(tmp_path / "my-board.toml")])
    assert shown.exit_code == 0, shown.output
    assert "origin       fp32/1: measured on my-board, revision 2, 2026-01-31; the rest ESTIMATE" in shown.output
    missing = CliRunner().invoke(cli, ["profile", "show", str(tmp_path / "your-board.toml")])
    assert isinstance(missing.exception, InputError)


def test_the_machine_is_described_in_plain_values() -> None:
    assert json.loads(json.dumps(machine())) == machine()
    assert machine()["runtime"].startswith("onnxruntime")


def test_a_table_of_estimates_is_not_measured() -> None:
    """Rows whose provenance calls them an estimate predict, and count as nothing measured."""
    row = Row("fp32", 1, Key("relu", "plain", 1, 1, 1, 8, 8), 4, 4, 12.0)
    layer = Layer("r", "relu", (4, 8, 8), (4, 8, 8), reads=(IMAGE,))
    entry = {"covers": ["table"], "kind": "estimate", "when": "2026-01-31", "source": "a guess"}
    guessed = Profile("board", "v", "onnxruntime", rows=(row,), provenance=(entry,))
    assert guessed.latency([layer], Target("board")) == (12.0, 0.0)
    third = replace(guessed, provenance=({**entry, "kind": "third party"},))
    assert third.latency([layer], Target("board")) == (12.0, 1.0)
