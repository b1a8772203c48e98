"""A whole run as the pipeline hands it to the report, with invented but coherent numbers; and what a browser sees."""

from __future__ import annotations

import copy
import math
import random
from html.parser import HTMLParser
from typing import Any

from rcnas_edge.evaluate import Rate

TARGET = "host/fp32/1"


def cost(macs: int, params: int, latency: float) -> dict[str, Any]:
    return {
        "macs": macs,
        "params": params,
        "size": 4 * params + 21_000,
        "memory": 4 * params + 260_000,
        "latency": latency,
        "measured": 0.982,
    }


def candidates(count: int = 40) -> list[dict[str, Any]]:
    """Candidates of a search that gets better: seeded, some over the budget, one chosen."""
    draw = random.Random(3)
    found = []
    for index in range(count):
        macs = round(draw.uniform(0.8e6, 2.9e6))
        robust = 0.35 + 0.1 * math.log2(macs / 0.8e6) + 0.003 * index + draw.gauss(0, 0.02)
        found.append(
            {
                "architecture": {"stage1.depth": draw.choice([1.0, 0.5]), "stage1.robust": draw.random() < 0.5},
                "score": {"robust": robust, "clean": robust + 0.2, "n": 256, "judge": "5be1f0", "seconds": 0.9},
                "cost": {"macs": macs, "latency": macs / 9e6},
                "feasible": macs < 2.55e6,
                "chosen": False,
            }
        )
    max((entry for entry in found if entry["feasible"]), key=lambda entry: entry["score"]["robust"])["chosen"] = True
    return found


def board_seen() -> dict[str, Any]:
    """What a board found of the file of `run_values`."""
    latency = {"p50_ms": 1.31, "p95_ms": 1.42, "stable": True, "runtime": "onnxruntime 1.15.0", "threads": 1}
    latency |= {"runs": 7695, "provider": "CPUExecutionProvider", "at_pace": 0.62, "share": 0.55}
    replay = {
        "decision": "replay agrees",
        "reasons": [
            "adversarial accuracy is within 3 points",
            "a replay of 1913 points: no attack was run on the board",
        ],
        "when": "2026-01-31T12:00:00+00:00",
        "n": 500,
        "points": 1913,
        **{name: Rate(490, 500).to_dict() for name in ("clean", "host_clean")},
        **{name: Rate(401, 500).to_dict() for name in ("robust", "host_robust")},
        "same": Rate(2411, 2413).to_dict(),
        "loss": {"value": 0.0, "low": -0.004, "high": 0.004, "p_value": 1.0, "bootstrap": None},
    }
    file = {"file": "model.onnx", "of": "model.onnx", "sha256": "e" * 64, "of_sha256": "e" * 64, "threads": 1}
    file |= {"runtime": "onnxruntime 1.15.0", "provider": "CPUExecutionProvider", "drift": 2.9e-7, "as_expected": True}
    return {
        "name": "pi5",
        "target": None,
        "source": "imported",
        "machine": {"cpu": "Cortex-A76", "board": "Raspberry Pi 5", "cores": 4},
        "files_whole": True,
        "files": [{**file, "latency": latency, "replay": replay}],
    }


def run_values() -> dict[str, Any]:
    """A whole run of the default task as the pipeline hands it over, with invented but coherent numbers."""
    draw = random.Random(5)
    history = [
        {
            "epoch": epoch,
            "loss": 1.9 * math.exp(-epoch / 12) + 0.35 + draw.gauss(0, 0.01),
            "clean": 0.97 - 0.75 * math.exp(-epoch / 6),
            "robust": 0.76 - 0.66 * math.exp(-epoch / 9) + draw.gauss(0, 0.008),
            "learning_rate": 0.1 * math.cos(math.pi * epoch / 80),
            "seconds": 1.2,
            "attack": "n-fgsm" if epoch <= 26 else "pgd-10",
        }
        for epoch in range(1, 41)
    ]
    attacks = [
        ("fgsm", "checkpoint", 402, 1_500, 500, 0.1),
        ("apgd-ce", "checkpoint", 372, 50_000, 49_500, 8.1),
        ("apgd-t", "checkpoint", 365, 334_800, 331_452, 52.4),
        ("square", "checkpoint", 365, 365_000, 0, 13.9),
        ("square", "artefact", 364, 365_000, 0, 41.2),
    ]
    verdict = {
        "decision": "robust",
        "reasons": ["robust accuracy 72.8 % is at least the 65.0 % that --min-robust asks for"],
        "flags": [],
        "threat": "linf:0.1/1:10",
        "n": 500,
        "drawn": "all 500 images that were given",
        "clean": Rate(474, 500).to_dict(),
        "robust": Rate(364, 500).to_dict(),
        "parity": Rate(1000, 1000).to_dict(),
        "attacks": [
            {
                "name": name,
                "source": source,
                "robust": Rate(hits, 500).to_dict(),
                "forwards": forwards,
                "backwards": backwards,
                "seconds": seconds,
            }
            for name, source, hits, forwards, backwards, seconds in attacks
        ],
        "name": "model.onnx",
        "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "level": "standard",
        "seed": 0,
        "classes": 10,
        "drift": {"clean_max": 3.1e-7, "clean_mean": 8.0e-8, "adversarial_max": 4.4e-7, "adversarial_mean": 9.0e-8},
        "eps_sweep": [
            {"epsilon": epsilon, "attack": attack, "robust": Rate(hits, total).to_dict()}
            for epsilon, attack, hits, total in (
                (0.0, "no attack", 474, 500),
                (0.05, "apgd-ce, 40 steps", 174, 200),
                (0.1, "every attack of the verdict", 364, 500),
                (0.2, "apgd-ce, 40 steps", 48, 200),
            )
        ],
        "step_sweep": [
            {"steps": steps, "attack": "apgd-ce", "robust": Rate(hits, 200).to_dict()}
            for steps, hits in ((5, 161), (10, 153), (20, 150), (50, 149), (100, 148))
        ],
        "twin": "checkpoint",
        "repairs": [],
        "evasion": None,
        "naive_gap": None,
        "parity_fault": "",
        "checkpoint": {
            "clean": Rate(474, 500).to_dict(),
            "robust": Rate(364, 500).to_dict(),
            "loss": {"value": 0.0, "low": -0.0039, "high": 0.0039, "p_value": 1.0, "bootstrap": None},
            "same": None,
        },
        "reference": {
            "clean": Rate(482, 500).to_dict(),
            "robust": Rate(371, 500).to_dict(),
            "loss": {
                "value": 0.014,
                "low": -0.012,
                "high": 0.040,
                "p_value": 0.34,
                "bootstrap": {"low": -0.011, "high": 0.039},
            },
            "same": None,
        },
        "gates": {"min_robust": 0.65, "max_robust_drop": None},
        "margin": 0.03,
        "not_checked": [],
        "seconds": 116.0,
    }
    teacher_cost, student_cost = cost(6_402_880, 691_674, 0.71), cost(2_437_184, 241_082, 0.272)
    return {
        "task": {
            "dataset": {
                "name": "digits",
                "image": [1, 8, 8],
                "classes": 10,
                "train": 1097,
                "held_out": 200,
                "test": 500,
            },
            "threat": "linf:0.1/1:10",
            "strategy": "rc-nas",
            "evaluations": 40,
            "weights": None,
            "seed": 0,
        },
        "seed": 0,
        "targets": [
            {
                "profile": "host",
                "precision": "fp32",
                "threads": 1,
                "origin": "measured on this machine",
                "here": None,
                "latency": None,
                "warning": None,
            }
        ],
        "budgets": [
            {
                "target": TARGET,
                "name": "macs",
                "unit": "MACs",
                "asked": "40%",
                "limit": 2_561_152.0,
                "teacher": 6_402_880,
                "cheapest": 318_464,
                "exact": False,
                "predicted": 2_437_184,
                "measured": 2_437_184,
                "met": True,
                "basis": "counted",
            },
            {
                "target": TARGET,
                "name": "latency",
                "unit": "ms",
                "asked": "60%",
                "limit": 0.426,
                "teacher": 0.71,
                "cheapest": 0.061,
                "exact": False,
                "predicted": 0.272,
                "measured": 0.284,
                "met": True,
                "basis": "measured",
            },
        ],
        "architecture": {
            "family": "wrn",
            "name": "wrn 1-2-1 x 32-40-56",
            "options": {"stem.stride": 1, "stage1.depth": 0.5, "stage1.width": 1.0, "stage3.robust": True},
            "stages": [
                {"name": "stage1", "depth": 1, "width": 32, "block": "basic"},
                {"name": "stage2", "depth": 2, "width": 40, "block": "basic"},
                {"name": "stage3", "depth": 1, "width": 56, "block": "robust", "stride": 2},
            ],
            "teacher_stages": [
                {"name": "stage1", "depth": 2, "width": 32, "block": "basic"},
                {"name": "stage2", "depth": 2, "width": 64, "block": "basic"},
                {"name": "stage3", "depth": 2, "width": 128, "block": "basic"},
            ],
            "layers": [
                {"name": name, "kind": kind, "macs": macs, "params": params, "latency_ms": ms, "measured": True}
                for name, kind, macs, params, ms in (
                    ("stem", "conv", 9_216, 144, 0.03),
                    ("stages.0.0.to_blocked", "to_blocked", 0, 0, 0.008),
                    ("stages.0.0.conv1", "conv+batchnorm+relu", 1_213_984, 120_469, 0.102),
                    ("stages.1.0.conv1", "conv+batchnorm+relu", 1_213_984, 120_469, 0.12),
                    ("overhead", "overhead", 0, 0, 0.012),
                )
            ],
            "depths": [1, 2, 1],
        },
        "cost": {TARGET: student_cost},
        "teacher": {
            "name": "wrn-16-2",
            "cost": {TARGET: teacher_cost},
            "clean": Rate(482, 500).to_dict(),
            "robust": Rate(371, 500).to_dict(),
        },
        "search": {
            "strategy": "rc-nas",
            "agent": None,
            "judge": "inherited weights + 2 epochs (5be1f0)",
            "evaluations": 40,
            "seconds": 61.3,
            "candidates": candidates(),
        },
        "training": {
            "recipe": {"method": "rslad", "epochs": 40, "learning_rate": 0.1, "attack": {"steps": 7, "step": 0.036}},
            "epochs": 40,
            "seconds": 48.7,
            "best_epoch": 36,
            "history": history,
        },
        "artefacts": [
            {
                "path": "artefacts/model.onnx",
                "format": "onnx",
                "precision": "fp32",
                "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "bytes": 985_344,
                "built": {"opset": 18, "batch sizes": [1, 5, 16]},
                "latency": {
                    "p50_ms": 0.284,
                    "p95_ms": 0.311,
                    "stable": True,
                    "runtime": "onnxruntime 1.31.1",
                    "threads": 1,
                    "runs": 31_004,
                    "provider": "CPUExecutionProvider",
                    "at_pace": 0.874,
                    "share": None,
                },
                "verdict": verdict,
            }
        ],
        "boards": [board_seen()],
        "bundle": {
            "path": "bundle",
            "digest": "d" * 64,
            "files": ["manifest.json", "model.onnx", "run.py"],
            "replay_images": 500,
            "replay_points": 1913,
        },
        "not_checked": [
            "AutoAttack's FAB was not run (level standard).",
            "Other threat models than linf:0.1/1:10 were not tried.",
        ],
        "versions": {"rcnas-edge": "0.1.0", "python": "3.11.7", "torch": "2.15.0", "cpu": "an x86-64 CPU, 2 cores"},
        "seconds": {"teacher": 71.0, "profile": 40.2, "search": 61.3, "train": 48.7, "export": 3.0, "verify": 116.0},
    }


def int8_values() -> dict[str, Any]:
    """An int8 file beside the fp32 one: read back, attacked straight through its rounding, and replayed crosswise."""
    artefact: dict[str, Any] = copy.deepcopy(run_values()["artefacts"][0])
    artefact |= {"path": "artefacts/model.int8.onnx", "precision": "int8", "bytes": 262_144, "sha256": "c" * 64}
    artefact["latency"] |= {"p50_ms": 0.101, "p95_ms": 0.112}
    rows = [
        ("fgsm", "re-import", 399), ("pgd", "re-import", 381), ("pgd", "re-import, naive", 381),
        ("apgd-ce", "re-import", 370), ("apgd-t", "re-import", 363), ("square", "re-import", 363),
        ("apgd-ce", "checkpoint", 362), ("apgd-t", "checkpoint", 361), ("square", "checkpoint", 361),
        ("diva", "re-import", 361), ("square", "artefact", 360),
        ("apgd-ce (checkpoint)", "model.onnx", 359), ("apgd-t (checkpoint)", "model.onnx", 358),
    ]  # fmt: skip
    artefact["verdict"] |= {
        "name": "model.int8.onnx",
        "sha256": "c" * 64,
        "clean": Rate(471, 500).to_dict(),
        "robust": Rate(358, 500).to_dict(),
        "twin": "re-import, straight through its rounding",
        "drawn": "500 of 10000 images, drawn without replacement by seed 0",
        "repairs": ["outputs are probabilities (softmax): attacks run on their logarithm, which changes no class"],
        "evasion": {"rate": Rate(31, 470).to_dict(), "attack": "DIVA, two rounds of 40 steps, and every other point"},
        "naive_gap": {"naive": Rate(463, 500).to_dict(), "straight_through": Rate(383, 500).to_dict()},
        "attacks": [
            {"name": name, "source": source, "robust": Rate(hits, 500).to_dict(), "forwards": 50_000,
             "backwards": 49_000, "seconds": 8.1}
            for name, source, hits in rows
        ],
        "checkpoint": {
            "clean": Rate(474, 500).to_dict(),
            "robust": Rate(364, 500).to_dict(),
            "loss": {
                "value": 0.012, "low": -0.002, "high": 0.026, "p_value": 0.146, "bootstrap": {"low": 0.0, "high": 0.024}
            },
            "same": Rate(962, 1000).to_dict(),
        },
    }  # fmt: skip
    return artefact


class Page(HTMLParser):
    """What a browser would see: text outside of style, ids, attributes that fetch, tags that stay open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.fetched, self.ids, self.open, self.tags = "", [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)
        for key, value in attrs:
            if key in ("src", "href", "srcset", "action", "data", "xlink:href", "poster"):
                self.fetched.append(value)
            if key == "id":
                self.ids.append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data.replace("\N{NO-BREAK SPACE}", " ") + " "
