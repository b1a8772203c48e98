"""Kill the demo (SIGKILL) at random moments, each time the same command again until it is done: is it the same run?

Runs are killed one after the other until there were `--kills` kills. The first one starts from nothing, so it is killed
while it measures too. What it measured (the device's profile, the teacher's cost, the finalists' timings) is then given
to a run that nobody kills, and to all further killed ones: with the same measurements the same command has to come to
the same architecture.json, weights, ONNX file, report.json and bundle, but for how long things took. Exit code 1 if one
differs, if a run ends in a traceback, or if anything that was written aside is left lying.

A moment is drawn evenly between the start of the process and `--longest` seconds of the processor, so that a busy
machine changes nothing. By default the demo is made small (few images, candidates and epochs); `--full` kills the
README's first command as it is, for hours.

With `--disk FOLDER` nothing is killed: the run lies in this folder, which is on a small file system of its own (as
root: `mount -t tmpfs -o size=32m tmpfs FOLDER`). A ballast fills it up; whenever the run ends for lack of room, in one
sentence and with exit code 2, the ballast gives `--step` bytes way and the same command follows.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import machine, show

SMALL = {
    "--subset": "60",
    "--evaluations": "3",
    "--judge-epochs": "1",
    "--epochs": "2",
    "--batch-size": "16",
    "--attack": "linf:0.2:5",
    "--level": "smoke",
    "--max-macs": "40%",
    "--max-latency": "90%",
    "--also": "none",
}
MEASURED = ("profile", "teacher/cost.json", "measured")
"""What a clock has said, which no second run would get again."""
SAME_BYTES = ("checkpoint/weights.safetensors", "artefacts/model.onnx", "bundle/reference.npz", "bundle/replay.npz")
SAME_VALUES = ("architecture.json", "report.json", "bundle/manifest.json")
OF_TIMES = ("seconds", "judge_seconds", "made_of", "README.md")
"""Keys of values that a clock has a part in; a bundle and its README say how fast the network was."""
STAGES = {
    "measuring": "teacher/cost.json",
    "search": "search.json",
    "timing finalists": "architecture.json",
    "training": "checkpoint/recipe.json",
    "export": "artefacts/latency.json",
    "verification": "verdict.onnx-fp32.json",
}
"""A run that is killed before this file is there is killed in this stage (or while its process starts)."""
DONE = (0, 3, 4, 5)
"""Exit codes of a run that came to its end."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how often a run is killed, over all runs")
    parser.add_argument("--seed", type=int, default=0, help="of the moments; the runs themselves have seed 0")
    parser.add_argument("--longest", type=float, default=14.0, help="seconds after which a run is killed at the latest")
    parser.add_argument("--full", action="store_true", help="the demo as it is, instead of a small one")
    parser.add_argument("--out", type=Path, help="folder of the runs, which has to be new; by default a temporary one")
    parser.add_argument("--disk", type=Path, help="fill this small file system again and again instead of killing")
    parser.add_argument("--step", type=int, default=300_000, help="bytes of room that are given way each time")
    asked = parser.parse_args()
    small = [word for pair in SMALL.items() for word in pair]
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.out or Path(scratch) / "runs"
        folder.mkdir(parents=True)
        print(machine())
        flags = [] if asked.full else small
        if asked.disk is None:
            faults = soak(folder, flags, asked.kills, asked.seed, asked.longest)
        else:
            faults = fill(folder, flags, asked.disk, asked.step)
    for fault in faults:
        print(f"DIFFERS: {fault}")
    sys.exit(1 if faults else 0)


def soak(folder: Path, flags: list[str], kills: int, seed: int, longest: float) -> list[str]:
    """Kill runs in this folder until there were so many kills; what was not as it should be, one sentence each."""
    moments = moments_of(seed, longest)
    os.environ["RCNAS_CACHE"] = str(folder / "cache")
    killed: list[list[str]] = []
    faults: list[str] = []
    started = time.monotonic()
    print(f"rcnas-edge compress {' '.join(flags)}; seed {seed}, moments up to {longest:g} s", flush=True)
    while sum(map(len, killed)) < kills:
        name = f"killed-{len(killed) + 1}"
        if killed:
            give_measured(folder / "killed-1", folder / name)
        stages, fault = run_to_the_end(folder / name, flags, moments, kills - sum(map(len, killed)))
        killed.append(stages)
        if not fault and len(killed) == 1:
            give_measured(folder / name, folder / "unbroken")
            _, fault = run_to_the_end(folder / "unbroken", flags, moments, 0)
        faults += [fault] if fault else differences(folder / "unbroken", folder / name)
        seconds = time.monotonic() - started
        print(f"{name}: {len(stages)} kills, {seconds:.0f} s so far, {len(faults)} faults", flush=True)
        if fault:
            break
    where = Counter(stage for stages in killed for stage in stages)
    rows = [[stage, str(where[stage])] for stage in (*STAGES, "report")]
    show(f"n = {where.total()} kills of {len(killed)} runs, seed {seed}", ["killed in", "kills"], rows)
    if not faults:
        print("every run came to the same architecture, weights, file and report as the unbroken one")
    return faults


def fill(folder: Path, flags: list[str], disk: Path, step: int) -> list[str]:
    """Run on a full disk that gives way step by step; what was not as it should be, one sentence each."""
    os.environ["RCNAS_CACHE"] = str(folder / "cache")
    print(f"rcnas-edge compress {' '.join(flags)}; on {disk}, {step} bytes more each time", flush=True)
    command = [sys.executable, "-m", "rcnas_edge", "compress", *flags, "--out", str(disk / "full")]
    ballast, full = disk / "ballast", 0
    ballast.write_bytes(b"")
    os.truncate(ballast, 0)
    with open(ballast, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free)
        while True:
            ended = subprocess.run(command, capture_output=True, text=True)
            last = " ".join(ended.stderr.splitlines()[-1:])
            if ended.returncode in DONE or "Traceback" in ended.stderr:
                break
            if ended.returncode != 2 or not last.startswith("error: ") or "No space left" not in last:
                break
            full += 1
            print(f"{full}: {last}", flush=True)
            os.truncate(file.fileno(), max(0, os.fstat(file.fileno()).st_size - step))
    if ended.returncode not in DONE:
        return [f"the run on the full disk ended with code {ended.returncode}: {last}"]
    give_measured(disk / "full", folder / "unbroken")
    _, fault = run_to_the_end(folder / "unbroken", flags, iter(()), 0)
    faults = [fault] if fault else differences(folder / "unbroken", disk / "full")
    print(f"n = {full} times without room, {len(faults)} faults")
    return faults


def moments_of(seed: int, longest: float) -> Iterator[float]:
    """Seconds of the processor after which a process is killed."""
    generator = random.Random(seed)
    while True:
        yield generator.uniform(0.0, longest)


def run_to_the_end(folder: Path, flags: list[str], moments: Iterator[float], kills: int) -> tuple[list[str], str]:
    """The stages in which the run was killed, at most so often, and what was wrong with its end ("" if nothing)."""
    command = [sys.executable, "-m", "rcnas_edge", "compress", *flags, "--out", str(folder)]
    said = folder.with_suffix(".log")
    stages: list[str] = []
    while True:
        with open(said, "a") as log:
            started = time.monotonic()
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            moment = next(moments) if len(stages) < kills else math.inf
            while process.poll() is None and spent(process, started) < moment:
                time.sleep(0.05)
            if process.poll() is None:
                process.kill()
            code = process.wait()
        if code != -signal.SIGKILL:
            break  # it had come to its end, perhaps in that very moment
        stages.append(next((stage for stage, file in STAGES.items() if not (folder / file).is_file()), "report"))
    words = said.read_text()
    if code not in DONE or "Traceback" in words:
        return stages, f"{folder.name} ended with code {code}: {' '.join(words.splitlines()[-1:])}"
    left = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in (".part", ".parts", ".state")]
    return stages, f"{folder.name} left {', '.join(left)}" if left else ""


def spent(process: subprocess.Popen[bytes], started: float) -> float:
    """Seconds of the processor that a process has had; of the clock where the system does not tell."""
    try:
        numbers = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return time.monotonic() - started
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


def give_measured(source: Path, folder: Path) -> None:
    """A new run's folder that holds what another run has measured."""
    for name in MEASURED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name)
        else:
            shutil.copy(source / name, folder / name)


def differences(unbroken: Path, killed: Path) -> list[str]:
    """The files in which a run differs from the unbroken one."""
    found = [name for name in SAME_BYTES if (unbroken / name).read_bytes() != (killed / name).read_bytes()]
    for name in SAME_VALUES:
        first, second = (timeless(json.loads((run / name).read_text())) for run in (unbroken, killed))
        found += [f"{name}: {place}" for place in places_that_differ(first, second)]
    return [f"{killed.name} and {unbroken.name} in {name}" for name in found]


def timeless(values: Any) -> Any:
    """JSON values without what a clock said of this process alone: seconds, and the final timing."""
    if isinstance(values, list):
        return [timeless(value) for value in values]
    if not isinstance(values, dict):
        return values
    timed = {*OF_TIMES} | ({"latency"} if isinstance(values.get("latency"), dict) else set())
    if values.get("name") == "latency":
        timed |= {"measured", "met"}
    if "files" in values or "path" in values:  # a bundle, in its manifest or in the report
        timed |= {"digest"}
    return {key: timeless(value) for key, value in values.items() if key not in timed}


def places_that_differ(first: Any, second: Any, place: str = "") -> Iterator[str]:
    """The ways to the values that are not the same in two JSON values."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted(first.keys() | second.keys()):
            yield from places_that_differ(first.get(key), second.get(key), f"{place}/{key}")
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for index, pair in enumerate(zip(first, second, strict=True)):
            yield from places_that_differ(*pair, f"{place}/{index}")
    elif first != second:
        yield f"{place} ({first!r} and {second!r})"


if __name__ == "__main__":
    main()
