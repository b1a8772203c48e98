"""The parts of a network's cost add up to the whole, and each is what hand arithmetic says."""

from __future__ import annotations

import pytest

from rcnas_edge.cost import cost_of
from rcnas_edge.cost.breakdown import OVERHEAD, breakdown
from rcnas_edge.nets.rows import RowWriter
from rcnas_edge.nets.wrn_rows import rows, wrn
from rcnas_edge.profile import Key, Profile, Row, Target
from rcnas_edge.space import IMAGE, Layer

TARGET = Target()
WRN = wrn(10, 1, image=(1, 8, 8), classes=10, mean=(0.5,), std=(0.5,))


def block() -> tuple[Layer, ...]:
    """normalise, conv 3->8 3x3 with bn and relu, pool, linear 8->10 with bias; images 3x4x4."""
    write = RowWriter((3, 4, 4))
    stem = write.convolution("block.conv", write.elementwise("normalize", "normalize", IMAGE), 8, kernel=3)
    pooled = write.global_pool("block.pool", write.normalised_relu("block.norm", "block.relu", stem))
    write.linear("linear", pooled, 10, bias=True)
    return tuple(write.rows)


def profile(runtime: str = "onnxruntime", **changes: object) -> Profile:
    keys = {
        (Key("normalize", "plain", 1, 1, 1, 4, 4), 3, 3): 0.01,
        (Key("conv", "plain", 3, 1, 1, 4, 4), 3, 8): 0.20,
        (Key("globalpool", "plain", 1, 1, 1, 4, 4), 8, 8): 0.03,
        (Key("linear", "plain", 1, 1, 1, 1, 1), 8, 10): 0.04,
    }
    known = {
        "rows": tuple(Row("fp32", 1, *key, ms) for key, ms in keys.items()),
        "overhead_ms": {"fp32/1": 0.5},
        "scale": {"fp32/1": 2.0},
    }
    return Profile("host", "test", runtime, **(known | changes))  # type: ignore[arg-type]


def test_every_part_by_hand() -> None:
    found = [(part.name, part.kind, part.macs, part.params) for part in breakdown(block(), profile(), TARGET)]
    assert found == [
        ("normalize", "normalize", 0, 0),
        ("block.conv", "conv+batchnorm+relu", 3 * 8 * 9 * 16, 3 * 8 * 9 + 16),
        ("block.pool", "globalpool", 0, 0),
        ("linear", "linear", 80, 90),
        (OVERHEAD, OVERHEAD, 0, 0),
    ]
    times = [part.latency_ms for part in breakdown(block(), profile(), TARGET)]
    assert times == pytest.approx([0.02, 0.40, 0.06, 0.08, 0.5])


@pytest.mark.parametrize("runtime", ["onnxruntime", "onnxruntime-nchwc8", "onnxruntime-nchwc16"])
def test_the_parts_add_up_to_the_whole_whatever_is_fused(runtime: str) -> None:
    layers, device = rows(WRN), profile(runtime)
    parts, whole = breakdown(layers, device, TARGET), cost_of(layers, device, TARGET)
    assert sum(part.macs for part in parts) == whole.macs > 0
    assert sum(part.params for part in parts) == whole.params > 0
    assert sum(part.latency_ms or 0 for part in parts) == pytest.approx(whole.latency, rel=1e-12)
    known = sum(part.latency_ms or 0 for part in parts if part.measured)
    assert known / (whole.latency or 1) == pytest.approx(whole.measured, abs=1e-12)


def test_a_reordering_stands_with_the_kernel_that_it_is_for() -> None:
    names = [part.name for part in breakdown(rows(WRN), profile("onnxruntime-nchwc8"), TARGET)]
    reordered = [name for name in names if name.endswith(("to_plain", "to_blocked"))]
    assert reordered
    for name in reordered:
        place = names.index(name)
        assert name.rpartition(".")[0] == names[place + 1].rpartition(".")[0]


def test_without_a_table_there_are_counts_and_no_times() -> None:
    parts = breakdown(block(), profile(rows=()), TARGET)
    assert [part.latency_ms for part in parts] == [None] * 4
    assert [part.measured for part in parts] == [None] * 4
    assert sum(part.macs for part in parts) == 3 * 8 * 9 * 16 + 80
