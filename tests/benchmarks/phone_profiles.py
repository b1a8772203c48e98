"""Fits the rates of the shipped phone profiles to published measurements, and says how far off they are.

The measurements are those of Li, Paolieri and Golubchik (EdgeSys 2024, https://doi.org/10.1145/3642968.3654818;
https://github.com/qed-usc/mobile-ml-benchmark at commit 40ba833, MIT licence): 102 ImageNet CNNs at 224x224, one image,
TFLite, mean and standard deviation in microseconds on core sets and GPUs of six phones. A setting is fitted to whole
networks by non-negative least squares on relative errors, reweighted towards least absolute ones, with a ridge. Held
out is one family of networks at a time, all its members together. Beside it: a time per MAC alone on the same split,
and for GPUs rates fitted to the single operators published there, with a call and a factor from whole networks.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from machine import machine, show
from phone_networks import NETWORKS, OPERATORS, PAD, Network, rated, read_latencies, read_networks
from scipy.optimize import nnls

from rcnas_edge.profile.table import work

POOLS = ("maxpool", "avgpool", "globalpool")
SMALL = ("add", "multiply", "batchnorm", "relu", "sigmoid", "concat", PAD)
FORM: tuple[tuple[tuple[str, ...], tuple[int, ...]], ...] = (
    *(((name,), (0, 1, 2)) for name in ("conv", "pointwise", "depthwise", "grouped")),
    (("linear",), (2,)),
    (POOLS, (0, 2)),
    (SMALL, (0, 2)),
)
"""Operations that share a rate, and which of its numbers (ms, ms per 10^6 MACs, ms per MB) are fitted.

Chosen among eleven forms by the mean held-out error over seven core sets (fp32 5.8 %, int8 9.2 %), so these errors are
a little kind to it; the five best are within half a point. Without `pointwise` it is 18.9 % and 10.6 %.
"""

URL, PAPER = "https://github.com/qed-usc/mobile-ml-benchmark", "https://doi.org/10.1145/3642968.3654818"
COMMIT = "40ba833a9ca560a3035a76a5c3da504082dec001"

HALF = "fp16, from a file in fp32: so the source says of the GPU's operators, and TFLite's delegate does by default"

RIDGE, ROUNDS, LEAST_ERROR = 0.01, 8, 0.03
NOISY = 0.2
"""A measurement whose standard deviation is a larger share of its mean is left out."""


@dataclass(frozen=True)
class Phone:
    """A profile to write: its words, and the column of the published file by setting."""

    name: str
    vendor: str
    words: str
    clocks: str  # as the source states them (website/collect.py)
    columns: Mapping[str, str]


def cpu(name: str, vendor: str, words: str, clocks: str, threads: int, column: str) -> Phone:
    settings = {f"fp32/{threads}": f"{column}|float", f"int8/{threads}": f"{column}|quant"}
    return Phone(name, vendor, words, clocks, settings)


def gpu(name: str, vendor: str, words: str, column: str) -> Phone:
    return Phone(name, vendor, words, "unknown", {"fp32/1": f"{column}|float"})


PHONES = (
    cpu("pixel-4-cpu-1-large", "Google", "Pixel 4 (Snapdragon 855), its large core", "2.84 GHz", 1, "pixel4|1large"),
    cpu("pixel-4-cpu-3-medium", "Google", "Pixel 4 (Snapdragon 855), three medium cores", "2.32 GHz", 3, "pixel4|3med"),
    gpu("pixel-4-gpu", "Google", "Pixel 4, GPU (Adreno 640)", "pixel4|gpu"),
    cpu("galaxy-s10-cpu-1-large", "Samsung", "Galaxy S10 (Exynos 9820), one large core", "2.73 GHz", 1, "s10|1large"),
    cpu("galaxy-s10-cpu-2-large", "Samsung", "Galaxy S10 (Exynos 9820), two large cores", "2.73 GHz", 2, "s10|2large"),
    gpu("galaxy-s10-gpu", "Samsung", "Galaxy S10, GPU (Mali G76)", "s10|gpu"),
    cpu("mi-8-se-cpu-1-large", "Xiaomi", "Mi 8 SE (Snapdragon 710), one large core", "2.20 GHz", 1, "mi8se|1large"),
    cpu("galaxy-a03s-cpu-1-large", "Samsung", "Galaxy A03s (Helio P35), one large core", "2.30 GHz", 1, "a03s|1large"),
    cpu("iphone-xs-cpu-1-large", "Apple", "iPhone XS (A12 Bionic), one large core", "2.49 GHz", 1, "iphonexs|1large"),
)


def features_of(networks: Sequence[Network]) -> np.ndarray:
    """(N, numbers of FORM + 1); the last one is that of a call."""
    return np.array(
        [
            [sum(one.work[name][place] for name in names) for names, places in FORM for place in places] + [1.0]
            for one in networks
        ]
    )


def fit(features: np.ndarray, ms: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """Non-negative coefficients (K,) with a small sum of |relative errors|; features (N, K), ms (N,)."""
    relative = features / ms[:, None]
    scale = relative.mean(axis=0)
    scale[scale == 0] = 1.0
    weights = np.ones(len(ms))
    for _ in range(ROUNDS):
        system = np.vstack([relative / scale * weights[:, None], math.sqrt(ridge * len(ms)) * np.eye(len(scale))])
        found = nnls(system, np.concatenate([weights, np.zeros(len(scale))]))[0] / scale
        weights = 1 / np.sqrt(np.maximum(np.abs(relative @ found - 1), LEAST_ERROR))
        weights /= weights.mean()
    return found


def held_out(features: np.ndarray, ms: np.ndarray, families: np.ndarray) -> np.ndarray:
    """Predicted ms (N,) of each network by a fit that has seen none of its family."""
    predicted = np.zeros(len(ms))
    for family in sorted(set(families)):
        out = families == family
        predicted[out] = features[out] @ fit(features[~out], ms[~out])
    return predicted


def held_out_by_operators(networks: Sequence[Network], column: str, ms: np.ndarray) -> np.ndarray:
    """Predicted ms (N,) by rates of single operators, then a call, a factor and what is elementwise; held out alike."""
    families = np.array([one.family for one in networks])
    groups = [*FORM[:-1], (("concat",), (0, 2))]
    rest = [name for name in SMALL if name != "concat"]
    small = np.array([sum((one.work[name] for name in rest), np.zeros(3))[[0, 2]] for one in networks])
    predicted = np.zeros(len(ms))
    for family in sorted(set(families)):
        seen = [pair for one in networks if one.family != family for pair in one.listed]
        sums = np.zeros(len(ms))
        for names, places in groups:
            pairs = [(work(kernel), float(row[column]) / 1e3) for kernel, row in seen if rated(kernel) in names]
            each = (np.array([done for done, _ in pairs]) * (1, 1e-6, 1e-6))[:, places]
            rate = fit(each, np.array([took for _, took in pairs]), ridge=RIDGE / 10)
            sums += [sum(one.work[name][list(places)] @ rate for name in names) for one in networks]
        features, out = np.column_stack([np.ones(len(ms)), sums, small]), families == family
        predicted[out] = features[out] @ fit(features[~out], ms[~out], ridge=RIDGE / 10)
    return predicted


@dataclass(frozen=True)
class Score:
    """How far predictions are from measurements: fractions, but for `n` and the name of the worst network."""

    n: int
    mape: float
    spearman: float
    within_10: float
    within_20: float
    worst: float
    worst_network: str

    @classmethod
    def of(cls, predicted: np.ndarray, ms: np.ndarray, networks: Sequence[Network]) -> Score:
        errors = np.abs(predicted / ms - 1)
        last = int(errors.argmax())
        ranks = np.corrcoef(*(values.argsort().argsort() for values in (predicted, ms)))[0, 1]
        shares = [round(float((errors <= limit).mean()), 3) for limit in (0.1, 0.2)]
        worst = round(float(errors[last]), 3)
        return cls(len(ms), round(float(errors.mean()), 4), round(float(ranks), 4), *shares, worst, networks[last].name)

    @property
    def cells(self) -> list[str]:
        ten, twenty, worst = (f"{100 * value:.0f} %" for value in (self.within_10, self.within_20, self.worst))
        return [f"{100 * self.mape:.1f} %", f"{self.spearman:.3f}", ten, twenty, worst, self.worst_network]


def rates_of(found: np.ndarray) -> tuple[Mapping[str, Mapping[str, float]], float]:
    """Rates by operation as a profile holds them, and the ms of a call. What is elementwise is `other`."""
    values = iter(found)
    rates = {}
    for names, places in FORM:
        units = ("ms", "ms_per_mmac", "ms_per_mb")
        rate = {units[place]: float(f"{next(values):.4g}") for place in places}
        rate = {unit: value for unit, value in rate.items() if value} or {"ms_per_mb": 1e-6}
        rates |= dict.fromkeys(("other",) if names == SMALL else names, rate)
    return rates, float(f"{found[-1]:.4g}")


def toml(phone: Phone, fitted: Mapping[str, np.ndarray], scores: Mapping[str, Score]) -> str:
    """The profile as it ships."""
    precisions, threads = (list(dict.fromkeys(part)) for part in zip(*(s.split("/") for s in fitted), strict=True))
    parts = {setting: rates_of(found) for setting, found in fitted.items()}
    head = {
        "schema": 2, "name": phone.name, "vendor": phone.vendor, "runtime": "tflite",
        "description": f"{phone.words}, TFLite 2.10. Fitted to published measurements of others; nothing was measured "
        "from here. The figures are shipped under the MIT licence in LICENSE.mobile-ml-benchmark.",
        "precisions": precisions, "threads": [int(thread) for thread in threads],
    }  # fmt: skip
    lines = [*assignments(head), "", "[domain]", 'images = ["224x224"]', "batch = 1", "", "[overhead_ms]"]
    lines += assignments({json.dumps(setting): call for setting, (_, call) in parts.items()})
    for setting, (rates, _) in parts.items():
        for operation, rate in rates.items():
            lines += ["", f"[rates.{json.dumps(setting)}.{operation}]", *assignments(rate)]
    for setting, score in scores.items():
        entry = {
            "covers": ["rates", "overhead"], "kind": "third party", "when": "2024", "setting": setting,
            "source": "mobile-ml-benchmark (Li, Paolieri, Golubchik, EdgeSys 2024)", "url": URL, "paper": PAPER,
            "commit": COMMIT, "file": "dataset/tflite_cnn_e2e.csv", "column": phone.columns[setting],
            "licence": "MIT, see LICENSE.mobile-ml-benchmark", "runtime": "TensorFlow Lite 2.10",
            "clocks": phone.clocks,
            **({"computes_in": HALF} if "|gpu|" in phone.columns[setting] else {}),
            "fit": f"tests/benchmarks/phone_profiles.py: a rate per kind of operation, {score.n} whole networks",
            "held_out": "one family of networks at a time, all its members together",
            "held_out_error": score.mape, "held_out_spearman": score.spearman, "held_out_within_10": score.within_10,
            "held_out_within_20": score.within_20, "held_out_worst": score.worst,
            "held_out_worst_network": score.worst_network,
        }  # fmt: skip
        lines += ["", "[[provenance]]", *assignments(entry)]
    return "\n".join(lines) + "\n"


def assignments(values: Mapping[str, object]) -> list[str]:
    return [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER", help=f"folder with {OPERATORS} and {NETWORKS}")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write the profiles there")
    asked = parser.parse_args()
    every, latencies = read_networks(asked.data), read_latencies(asked.data)
    print(machine())
    print(f"{len(every)} networks of {len({one.family for one in every})} families, each family held out as a whole")
    rows = []
    for phone in PHONES:
        fitted, scores = {}, {}
        for setting, column in phone.columns.items():
            timed = {name: of_network[column] for name, of_network in latencies.items()}
            networks = [one for one in every if timed[one.name][1] <= NOISY * timed[one.name][0]]
            ms = np.array([timed[one.name][0] for one in networks])
            families = np.array([one.family for one in networks])
            features = features_of(networks)
            fitted[setting] = fit(features, ms)
            scores[setting] = Score.of(held_out(features, ms, families), ms, networks)
            rows.append([f"{phone.name} {setting}", "rates", str(len(ms)), *scores[setting].cells])
            macs = np.array([[one.macs] for one in networks])
            rows.append(["", "MACs alone", "", *Score.of(held_out(macs, ms, families), ms, networks).cells])
            if "|gpu|" in column:
                single = held_out_by_operators(networks, column, ms)
                rows.append(["", "single operators", "", *Score.of(single, ms, networks).cells])
        if asked.write:
            path = asked.write / f"{phone.name}.toml"
            path.write_text(toml(phone, fitted, scores), encoding="utf-8", newline="\n")
    show("held out", ["", "predictor", "n", "MAPE", "Spearman", "within 10 %", "within 20 %", "worst", "of"], rows)


if __name__ == "__main__":
    main()
