"""How well a measured table predicts the latency of whole random networks, beside simpler predictors, in one run.

The table of the family's space is measured as `rcnas-edge profile measure` does. Then random networks of the space that
the calibration has not seen are timed end to end, in several visits, each in a session of its own and in turns with a
reference kernel, at the pace that this had for the table; the median of the visits is the truth. The other predictors
are fitted to as many whole networks as the table's calibration: a time per MAC, and a roofline (per kernel the larger
of a time per MAC and a time per byte). "Timed again" is the median of every other visit beside that of the rest: what
no predictor can be expected to beat on this machine.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from machine import machine, show

from rcnas_edge.measure import measure_profile
from rcnas_edge.measure.stopwatch import Stopwatch
from rcnas_edge.nets import family
from rcnas_edge.pipeline.measuring import CALIBRATION, CHECK, PASSES
from rcnas_edge.pipeline.prepare import sampled_layers
from rcnas_edge.profile import Target, read_profile
from rcnas_edge.profile.fusion import kernels, kernels_of
from rcnas_edge.profile.table import work
from rcnas_edge.space import Architecture, Layer

Network = Sequence[Layer]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="wrn")
    parser.add_argument("--base", help="largest network of the space; default the family's")
    parser.add_argument("--image", default="3x32x32")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "int8"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=270.0, help="time that the table may take")
    parser.add_argument("--networks", type=int, default=200, help="random networks that are timed")
    parser.add_argument("--visits", type=int, default=5, help="times that each network is timed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile", type=Path, help="take this profile's table instead of measuring one")
    asked = parser.parse_args()
    shape = tuple(map(int, asked.image.split("x")))
    kind = family(asked.family)
    mean = (0.5,) * shape[0]
    base = kind.network(asked.base or kind.default_network, image=shape, classes=10, mean=mean, std=mean)
    space = kind.space(base)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        path = asked.profile or Path(folder) / "table.toml"
        started = time.perf_counter()
        if asked.profile is None:
            seen = sampled_layers(space, 0)
            measure_profile(
                "table",
                seen,
                precision=asked.precision,
                threads=asked.threads,
                budget_seconds=asked.seconds,
                passes=PASSES,
                calibration=CALIBRATION,
                check=CHECK,
                path=path,
            )
        taken = time.perf_counter() - started
        profile = read_profile(path)
    target = Target(profile.name, asked.precision, asked.threads)
    generator = random.Random(asked.seed)
    drawn: dict[object, Network] = {}
    while len(drawn) < asked.networks + CALIBRATION:
        architecture = Architecture(tuple(generator.randrange(len(gene.options)) for gene in space.genes))
        drawn[space.deployed(architecture)] = space.layers(architecture)
    networks = list(drawn.values())
    pace = next(entry["reference_ms"] for entry in profile.provenance if entry.get("setting") == target.setting)
    watch = Stopwatch(asked.threads, precision=asked.precision, pace=pace)
    visits = np.array([[watch.network(layers) for layers in networks] for _ in range(asked.visits)])
    truth = np.median(visits, axis=0)
    apart = np.abs(visits / truth - 1)
    fitting, judged = slice(0, CALIBRATION), slice(CALIBRATION, None)
    ours = [profile.latency(layers, target) for layers in networks]
    predictors = {
        "table": np.array([ms for ms, _ in ours]),
        "roofline": roofline(networks, kernels_of(profile.runtime, asked.precision), truth, fitting),
        "time per MAC": per_mac(networks, truth, fitting),
    }
    rows = [[name, *_errors(found[judged], truth[judged])] for name, found in predictors.items()]
    if asked.visits > 1:
        again, before = (np.median(visits[turn::2], axis=0)[judged] for turn in (1, 0))
        rows.append(["timed again", *_errors(again, before)])
    print(
        f"{asked.family} under {base.name}, {asked.image}, {profile.runtime}, {target.setting}: "
        f"{len(profile.rows)} rows in {taken:.0f} s; {asked.networks} random networks (seed {asked.seed}), "
        f"{truth[judged].min():.3g} to {truth[judged].max():.3g} ms; one visit of {asked.visits} differs from their "
        f"median by {100 * np.median(apart):.2f} % (median), {100 * np.quantile(apart, 0.95):.2f} % (95th percentile), "
        f"the reference kernel by {100 * watch.spread:.1f} %; "
        f"{100 * np.mean([share > 0.98 for _, share in ours]):.0f} % of the networks rest on measured rows"
    )
    show("predicted against measured", ["", "within 2 %", "5 %", "10 %", "MAPE", "Spearman", "worst", "bias"], rows)


def per_mac(networks: Sequence[Network], truth: np.ndarray, fitting: slice) -> np.ndarray:
    """ms of each network by one time per MAC, fitted with the least relative error."""
    macs = np.array([float(sum(layer.macs for layer in layers)) for layers in networks])
    share = macs[fitting] / truth[fitting]
    return macs * share.sum() / (share**2).sum()


def roofline(networks: Sequence[Network], runtime: str, truth: np.ndarray, fitting: slice) -> np.ndarray:
    """ms of each network by the larger of MACs / rate and bytes / bandwidth per kernel, both fitted."""
    kinds = [np.array([work(kernel)[1:] for kernel, _ in kernels(layers, runtime)]) for layers in networks]

    def predict(balance: float) -> np.ndarray:
        return np.array([np.maximum(found[:, 0], balance * found[:, 1]).sum() for found in kinds])

    def error(balance: float) -> tuple[float, float]:
        share = predict(balance)[fitting] / truth[fitting]
        scale = share.sum() / (share**2).sum()
        return float(((scale * share - 1) ** 2).sum()), scale

    balance = min(np.geomspace(0.01, 1000, 200), key=_first(error))
    return error(balance)[1] * predict(balance)


def _first(function: Callable[[float], tuple[float, float]]) -> Callable[[float], float]:
    return lambda value: function(value)[0]


def _errors(predicted: np.ndarray, truth: np.ndarray) -> list[str]:
    error = predicted / truth - 1
    size = np.abs(error)
    ranks = [np.argsort(np.argsort(values)) for values in (predicted, truth)]
    spearman = float(np.corrcoef(*ranks)[0, 1])
    shares = [f"{100 * np.mean(size <= limit):.1f} %" for limit in (0.02, 0.05, 0.10)]
    return [*shares, f"{100 * size.mean():.2f} %", f"{spearman:.4f}", f"{100 * size.max():.1f} %", _signed(error)]


def _signed(error: np.ndarray) -> str:
    return f"{100 * np.median(error):+.2f} %"


if __name__ == "__main__":
    main()
