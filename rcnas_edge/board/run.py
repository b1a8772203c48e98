"""run.py of a bundle: classifies images, and says how fast and how robust the network is on this board.

    python3 run.py predict photo.png     what the network sees in images
    python3 run.py selftest              the files are whole and answer as where they were made
    python3 run.py bench                 how long an image takes here: median, 95th percentile, whether it was steady
    python3 run.py replay                accuracy here on stored test images, as they are and as attacks changed them
    python3 run.py build-engine          a TensorRT engine for this board's GPU, for --model built.model.engine

Each writes what it found into results.json, for the person who made the bundle. It needs Python 3.9 or later with numpy
and onnxruntime, or NVIDIA's package for an engine; nothing is installed or sent. Where standard output is no terminal,
results.json is printed there too, and the words go to standard error.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rcnas_edge.board.bundle import PACE, REPLAY, Bundle, predicted
from rcnas_edge.board.checks import compared, examples, references, replayed
from rcnas_edge.board.engine import build_engine, open_network
from rcnas_edge.board.found import Found, now, say
from rcnas_edge.board.machine import watch
from rcnas_edge.board.timing import HOW, Runner, session_runner, time_runs
from rcnas_edge.board.words import INTERRUPTED, Refused, seconds_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EVERY = "all"
"""In the place of a --model: every ONNX file of the bundle."""
TOP = 3
"""Classes that are told of an image."""
OTHERWISE = 5
"""Exit code: the network answers otherwise than where it was checked, or is less right under replayed attacks."""
SLOWER = 3
"""Exit code: a --max-latency was missed."""


# The commands


def predict(bundle: Bundle, found: Found, asked: argparse.Namespace) -> int:
    """What the network sees in each image."""
    network = open_network(bundle, asked.model, asked.threads)
    for name in asked.images:
        said = predicted(network, name, bundle, fit=asked.resize)
        for place, probabilities in enumerate(said.probabilities):
            best = np.argsort(-probabilities, kind="stable")[:TOP]
            told = [{"label": bundle.labels[index], "probability": float(probabilities[index])} for index in best]
            words = ", ".join(f"{one['label']} {100 * one['probability']:.1f} %" for one in told)
            say(f"{name}{f'[{place}]' if len(said) > 1 else ''}: {words}")
            entry = {"image": str(name), "place": place, "best": told, **network.about()}
            found.keep("predict", entry, "image", "place", "file")
    return 0


def selftest(bundle: Bundle, found: Found, asked: argparse.Namespace) -> int:
    """Whether the files are whole, and the networks answer here as where they were checked."""
    wrong = bundle.wrong()
    outputs: list[dict[str, Any]] = []
    report: dict[str, Any] = {"files": len(bundle.files), "wrong": wrong, "outputs": outputs, "when": now()}
    found.content["selftest"] = report
    found.save()
    for sentence in wrong.values():
        say(sentence)
    if wrong:
        return 2
    say(f"all {len(bundle.files)} files are as they were made")
    reference = references(bundle)
    for name in models(bundle, asked.model or EVERY):
        network = open_network(bundle, name, asked.threads)
        expected = reference.get(f"logits/{network.of}")
        if expected is None:
            raise Refused(f"this bundle has no answers that {network.of} is to give: ask for a new one")
        outputs.append(compared(network, reference["images"], expected, bundle.artefacts[network.of]["tolerance"]))
        found.save()
        say(_told_outputs(outputs[-1], bundle.artefacts[network.of]["runtime"]["version"]))
    return 0 if all(one["passed"] for one in outputs) else OTHERWISE


def _told_outputs(one: dict[str, Any], checked: str) -> str:
    version = "" if one["runtime"].rpartition(" ")[2] == checked else f"; it was checked with {checked}"
    drift = "no numbers" if one["drift"] is None else f"{one['drift']:.2g} of the largest logit"
    verdict = "as expected" if one["passed"] else f"OTHERWISE than expected (at most {one['tolerance']:g})"
    return (
        f"{one['file']} on {one['runtime']}{version}: answers {verdict}; off by {drift}, {one['same']} of {one['n']} "
        "reference images in the same class"
    )


def bench(bundle: Bundle, found: Found, asked: argparse.Namespace) -> int:
    """How long one image takes, by the protocol that every latency of the bundle was measured by."""
    seconds, code = seconds_of(asked.seconds), 0
    limit = None if asked.max_latency is None else milliseconds_of(asked.max_latency)
    for name in models(bundle, asked.model):
        network = open_network(bundle, name, asked.threads)
        image = np.random.default_rng(0).random((1, *bundle.shape), dtype=np.float32)

        def opened(name: str | None = name, image: np.ndarray = image) -> Runner:
            return Runner(partial(open_network(bundle, name, asked.threads).run, image))

        seen: dict[str, Any] = {}
        watch(seen)
        timing = time_runs(
            opened,
            session_runner(bundle.read(PACE), network.threads),
            runtime=f"{network.runtime}, {HOW}",
            provider=network.provider,
            threads=network.threads,
            seconds=seconds,
        )
        watch(seen)
        throttled = bool(seen.get("throttled"))
        timing = replace(timing, stable=timing.stable and not throttled)
        entry = {**network.about(), **timing.to_dict(), "seen": seen}
        entry["load"] = None if math.isnan(timing.load) else timing.load  # not told on Windows
        found.keep("bench", entry, "file", "threads", "provider")
        again = "" if timing.stable else ": other work, clocks or heat; measure again"
        heat = "; THROTTLED by heat or supply" if throttled else ""
        say(
            f"{network.file}, {network.runtime}, {network.threads} thread(s): p50 {timing.p50_ms:.4g} ms (95 % of "
            f"its parts {timing.low_ms:.4g} to {timing.high_ms:.4g}), p95 {timing.p95_ms:.4g} ms, "
            f"{timing.steadiness}{again}{heat}"
        )
        if limit is not None and timing.p50_ms > limit:
            say(f"p50 {timing.p50_ms:.4g} ms is above the {limit:g} ms of --max-latency")
            code = SLOWER
    return code


def replay(bundle: Bundle, found: Found, asked: argparse.Namespace) -> int:
    """Accuracy on the stored test images, clean and as attacks on the bundle's files changed them elsewhere."""
    if REPLAY not in bundle.files:
        raise Refused(f"this bundle has no {REPLAY}, it was made before the network was attacked: ask for a new one")
    stored, code = examples(bundle), 0
    for name in models(bundle, asked.model or EVERY):
        network = open_network(bundle, name, asked.threads)
        started = time.monotonic()
        entry = replayed(network, stored)
        entry["seconds"] = round(time.monotonic() - started, 3)
        found.keep("replay", entry, "file", "threads", "provider")
        for line in _told_replay(entry):
            say(line)
        lost = 0.0 if entry["host"] is None else entry["host"]["robust"]["value"] - entry["robust"]["value"]
        if lost > bundle.manifest["margin"]:
            say(f"{network.file} is less right here than where it was attacked, by more than the margin")
            code = OTHERWISE
    return code


def _told_replay(entry: dict[str, Any]) -> list[str]:
    host = entry["host"]
    there = {key: f", where it was checked {_words(host[key])}" if host else "" for key in ("clean", "robust")}
    lines = [
        f"{entry['file']} on {entry['runtime']}, n = {entry['n']} stored test images:",
        f"  clean accuracy        {_words(entry['clean'])}{there['clean']}",
        f"  adversarial accuracy  {_words(entry['robust'])}{there['robust']}",
        f"  a replay of {entry['points']} points that attacks made elsewhere: no attack was run here",
    ]
    if host:
        lines.append(f"  {host['same']} of {entry['n'] + entry['points']} answers are the same as there")
    return lines


def _words(one: dict[str, Any]) -> str:
    return f"{100 * one['value']:.1f} % [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"


def engine(bundle: Bundle, found: Found, asked: argparse.Namespace) -> int:
    """Build a TensorRT engine of an ONNX file for this board's GPU."""
    about = build_engine(bundle, asked.model, asked.runtime)
    found.keep("engines", about, "file")
    types = ", ".join(f"{count} layers in {name}" for name, count in about["layers"].items())
    say(f"{about['file']}: {about['bytes']} bytes, {about['runtime']['version']}, {about['gpu']}; {types}")
    say(f"run it by --model {about['file']}: selftest, bench, replay, predict")
    return 0


def models(bundle: Bundle, asked: str | None) -> list[str | None]:
    """The networks that a --model stands for."""
    if asked != EVERY:
        return [asked]
    return [name for name, about in bundle.artefacts.items() if about["format"] == "onnx"]


def milliseconds_of(text: str) -> float:
    """A latency as 2ms or 500us; a bare number is ms."""
    for unit, factor in (("us", 1e-3), ("ms", 1.0), ("s", 1e3), ("", 1.0)):
        if text.endswith(unit):
            try:
                value = factor * float(text[: len(text) - len(unit)])
            except ValueError:
                break
            if 0 < value < math.inf:
                return value
            break
    raise Refused(f"--max-latency is a time above 0, as 2ms or 500us, got {text!r}")


# The command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; what is wrong is one sentence and exit code 2."""
    asked = _parser().parse_args(arguments)
    try:
        signal.signal(signal.SIGTERM, _stopped)
        bundle = Bundle(Path(asked.bundle) if asked.bundle else Path(__file__).absolute().parent)
        found = Found(bundle, Path(asked.out))
        run: Callable[[Bundle, Found, argparse.Namespace], int] = asked.run
        code = run(bundle, found, asked)
        if asked.json or not sys.stdout.isatty():
            sys.stdout.write(json.dumps(found.content) + "\n")
        return code
    except Refused as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED


def _stopped(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="run.py", description="Runs and checks a bundle's network on this board.")
    parser.add_argument("--bundle", help="folder of the bundle; default where this file is")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, run, words in (
        ("predict", predict, "classify images"),
        ("selftest", selftest, "check the files, and the networks on reference images"),
        ("bench", bench, "time the network on one image"),
        ("replay", replay, "accuracy here, on stored images as they are and as attacks changed them"),
        ("build-engine", engine, "build a TensorRT engine for this board's GPU"),
    ):
        command = commands.add_parser(name, help=words, description=words)
        command.set_defaults(run=run)
        every = f", or {EVERY}" if name in ("selftest", "bench", "replay") else ""
        command.add_argument("--model", help=f"file of the bundle{every}; default the main one (selftest, replay: all)")
        command.add_argument("--threads", type=int, help="threads of the runtime; default those of the bundle")
        command.add_argument("--out", default="results.json", help="file of the results; default results.json")
        command.add_argument("--json", action="store_true", help="print the results on a terminal too")
        if name == "predict":
            command.add_argument("images", nargs="+", metavar="IMAGE", help="PNG, .npy, or with Pillow any image file")
            command.add_argument("--resize", action="store_true", help="scale images of another size, cut the centre")
        elif name == "bench":
            command.add_argument(
                "--seconds",
                default="10s",
                help="how long it is timed, or up to three times that; default 10s",
            )
            command.add_argument("--max-latency", help="exit code 3 if the median is above, as 2ms")
        elif name == "build-engine":
            command.add_argument(
                "--runtime", default="tensorrt", choices=["tensorrt", "tensorrt-rtx"], help="what builds"
            )
    return parser


if __name__ == "__main__":
    sys.exit(main())
