"""Times a kit's kernels and networks on the machine at hand: the measure.py of a kit.

There it is one file that stands alone (`bundle.program`), with Python 3.9 or later, numpy, and onnxruntime where
something is run, for boards that have neither torch nor a network:

    python3 kit.zip --threads 1,2 --budget 10min    times the kit into results.json; the same command goes on
    python3 kit.zip --model model.onnx              times one network, as a report does
    python3 kit.zip --check                         says whether the kit's files are whole

and `rcnas-edge profile import results.json` makes a device profile of what it wrote.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import math
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcnas_edge.board.kit import KIT, Kit, Results, now
from rcnas_edge.board.layout import block_of
from rcnas_edge.board.machine import machine
from rcnas_edge.board.session import measure
from rcnas_edge.board.timing import HOW, Runner, session_runner, time_runs
from rcnas_edge.board.words import INTERRUPTED, Refused, seconds_of, tell

if TYPE_CHECKING:
    from collections.abc import Sequence


class OnnxRuntime:
    """ONNX Runtime on the CPU."""

    provider = "CPUExecutionProvider"

    def __init__(self) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise Refused(
                f"the measuring needs onnxruntime, which does not load ({error}): pip install onnxruntime"
            ) from error
        self.version = f"onnxruntime {onnxruntime.__version__}"

    def name(self, probe: bytes, plans: Sequence[str]) -> tuple[str, str]:
        """The runtime of a profile that this one is, and the plan that it wants."""
        block = block_of(probe)
        name = f"onnxruntime-nchwc{block}" if block else "onnxruntime"
        if name not in plans:
            tell(f"this ONNX Runtime lays out blocks of {block} channels, which the kit does not know: taken as plain")
            name = "onnxruntime"
        return name, name

    def open(self, model: bytes, threads: int) -> Runner:
        """The model, ready to run on one image."""
        return session_runner(model, threads)


def threads_of(text: str | None, kit: Kit) -> list[int]:
    """The numbers of threads that are asked for, as 1,2; by default those of the kit that the machine has cores for."""
    cores = os.cpu_count() or 1
    if text is None:
        return [threads for threads in kit.manifest["threads"] if threads <= cores] or [1]
    if not re.fullmatch(r"[1-9][0-9]{0,3}(,[1-9][0-9]{0,3})*", text) or max(map(int, text.split(","))) > cores:
        raise Refused(f"--threads are from 1 to the {cores} cores of this machine, as 1,2, got {text!r}")
    return sorted(set(map(int, text.split(","))))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, or check, or time one model; what is wrong is one sentence and exit code 2."""
    try:
        signal.signal(signal.SIGTERM, _interrupt)
        return _run(_parser().parse_args(arguments))
    except Refused as error:
        sys.stderr.write(f"\nerror: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted: the same command goes on\n")
        return INTERRUPTED


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="measure.py", description="Times the kit's models on this machine.")
    parser.add_argument("--threads", help="threads of the runtime, as 1,2; default those of the kit")
    parser.add_argument("--budget", help="stop after a time, as 10min; the same command goes on. Default: until done")
    parser.add_argument(
        "--passes", type=int, default=3, help="times that everything is timed, if the budget has room; default 3"
    )
    parser.add_argument("--out", default="results.json", help="file of the results; default results.json")
    parser.add_argument("--kit", help="folder or zip of the kit; default where this file is")
    parser.add_argument("--model", action="append", help="time this ONNX file instead of the kit; several times too")
    parser.add_argument(
        "--seconds", default="10s", help="how long a --model is timed, or up to three times that; default 10s"
    )
    parser.add_argument("--check", action="store_true", help="only check that the kit's files are whole")
    parser.add_argument(
        "--runtime",
        default="onnxruntime",
        choices=["onnxruntime", "tensorrt", "tensorrt-rtx"],
        help="what runs the models; tensorrt and tensorrt-rtx on an NVIDIA GPU (not tried on one yet)",
    )
    return parser


def _run(asked: argparse.Namespace) -> int:
    kit = Kit(Path(asked.kit) if asked.kit else Path(__file__).absolute().parent)
    if asked.check:
        tell(kit.check())
        return 0
    budget = seconds_of(asked.budget) if asked.budget else math.inf
    seconds, threads = seconds_of(asked.seconds), threads_of(asked.threads, kit)
    if asked.runtime == "onnxruntime":
        runtime: Any = OnnxRuntime()
    else:
        runtime = importlib.import_module("measure_tensorrt").open_runtime(asked.runtime, Refused, Runner)
    name, plan = runtime.name(kit.read(kit.manifest["probe"]), list(kit.manifest["plans"]))
    start = {
        "results": KIT,
        "kit": {"digest": kit.digest, "made_by": kit.manifest["made_by"], "cover": kit.manifest["cover"]},
        "runtime": name,
        "machine": machine(runtime.version) | ({} if asked.runtime == "onnxruntime" else {"gpu": runtime.provider}),
        "pairs": {},
        "networks": {},
        "threads": {},
        "models": [],
    }
    results = Results(Path(asked.out), start)
    results.save()  # what cannot be written is told before the work
    tell(f"{start['machine']['cpu']}, {runtime.version} ({name})")
    if asked.model:
        for model in asked.model:
            for count in threads:
                _time_model(Path(model), kit, runtime, results, count, seconds)
        return 0
    left = measure(kit, runtime, results, plan, threads, budget, max(1, asked.passes))
    if left:
        tell(f"{results.path}: {left} timings are left, the same command goes on")
    else:
        tell(f"{results.path} is complete: 'rcnas-edge profile import {results.path.name} --name NAME' makes a profile")
    return 0


def _time_model(path: Path, kit: Kit, runtime: Any, results: Results, threads: int, seconds: float) -> None:
    try:
        model = path.read_bytes()
    except OSError as error:
        raise Refused(f"--model is an ONNX file, {path} cannot be read ({error.strerror or error})") from error
    reference = runtime.open(kit.read(kit.manifest["reference"]), threads)
    timing = time_runs(
        lambda: runtime.open(model, threads),
        reference,
        runtime=f"{runtime.version}, {HOW}",
        provider=runtime.provider,
        threads=threads,
        seconds=seconds,
    )
    digest = hashlib.sha256(model).hexdigest()
    known = [entry for entry in results.content["models"] if (entry["sha256"], entry["threads"]) != (digest, threads)]
    entry = {"file": path.name, "sha256": digest, "when": now(), **timing.to_dict()}
    entry["load"] = None if math.isnan(timing.load) else timing.load  # not told on Windows
    results.content["models"] = [*known, entry]
    results.save()
    tell(
        f"{path.name}, {threads} thread(s): p50 {timing.p50_ms:.4g} ms (95 % of its parts {timing.low_ms:.4g} to "
        f"{timing.high_ms:.4g}), p95 {timing.p95_ms:.4g} ms, {timing.steadiness}"
    )


if __name__ == "__main__":
    sys.exit(main())
