"""Times kernels and networks on the machine at hand: the protocol of every latency here, and the measure.py of a kit.

The file stands alone: Python 3.9 or later, numpy, and onnxruntime where something is run. `rcnas-edge profile kit`
copies it into a kit as measure.py, for boards that have neither torch nor a network. There

    python3 kit.zip --threads 1,2 --budget 10min    times the kit into results.json; the same command goes on
    python3 kit.zip --model model.onnx              times one network, as a report does
    python3 kit.zip --check                         says whether the kit's files are whole

and `rcnas-edge profile import results.json` makes a device profile of what it wrote.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import math
import os
import platform
import re
import signal
import sys
import tempfile
import time
import zipfile
import zlib
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import onnxruntime

KIT = 1
"""Version of the kit's manifest and of results.json; raised when either, or a specimen, changes."""
INTERRUPTED = 130


class Refused(Exception):
    """What the user can act on, in one sentence."""


# Runs and their times


class Runner:
    """A call that runs something open on one image, and how long it takes; `clock` gives nanoseconds."""

    def __init__(self, run: Callable[[], object], clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.run, self.clock = run, clock

    def times(self, runs: int) -> np.ndarray:
        """ms of each of so many runs."""
        run, clock = self.run, self.clock
        found = np.empty(runs)
        for place in range(runs):
            start = clock()
            run()
            found[place] = clock() - start
        return found / 1e6

    def times_for(self, seconds: float) -> np.ndarray:
        """ms of each run that fits in a time, at least three; the clock is asked after every third."""
        found, end = [self.times(3)], self.clock() + 1e9 * seconds
        while self.clock() < end:
            found.append(self.times(3))
        return np.concatenate(found)

    def warm(self, seconds: float, runs: int) -> None:
        """Run for at least this time and at least so many times."""
        end = self.clock() + 1e9 * seconds
        self.times(runs)
        while self.clock() < end:
            self.times(5)


def open_session(
    model: bytes | str | Path, threads: int, *, optimised: Path | None = None
) -> onnxruntime.InferenceSession:
    """A session as a shipped network is run: CPU provider, one call at a time, all graph optimisations.

    `optimised` also writes the graph that the runtime makes of the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    if optimised:
        options.optimized_model_filepath = str(optimised)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no public base
        what = "these bytes" if isinstance(model, bytes) else str(model)
        raise Refused(f"a timing needs a model that ONNX Runtime loads, {what}: {error}") from error


def session_runner(model: bytes | str | Path, threads: int) -> Runner:
    """An open session with a random image to run it on; a size that the model leaves open is 1."""
    session = open_session(model, threads)
    feeds = session.get_inputs()
    if len(feeds) != 1 or feeds[0].type != "tensor(float)":
        found = ", ".join(f"{feed.name} {feed.type}" for feed in feeds)
        raise Refused(f"a timing needs a model with one input of float32, this one has {found or 'none'}")
    shape = [size if isinstance(size, int) else 1 for size in feeds[0].shape]
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    return Runner(partial(session.run, None, {feeds[0].name: image}))


# Short samples, for the many rows of a table

TURNS, RUNS_PER_TURN, TURN_SECONDS = 4, 20, 0.01
REFERENCES = 5
"""Last timings of the reference kernel whose median is the machine's pace now."""
STEADY = 0.05
"""Spread of the reference kernel above which a measurement is called unstable."""


class Pace:
    """How fast the machine runs, by a reference kernel that every sample is taken in turns with.

    `ms` is what the reference kernel takes at the pace that all times are brought to (that of an earlier measurement,
    or of now); `references` are its timings so far, those of a call that was killed included.
    """

    def __init__(self, reference: Runner, *, ms: float | None = None, references: Sequence[float] = ()) -> None:
        self.reference, self.references = reference, list(references)
        self.begun = len(self.references)  # the former ones say nothing of how fast the machine is now
        reference.warm(0.2, 100)
        self.ms = ms or float(np.median([_quick(reference) for _ in range(9)]))

    @property
    def spread(self) -> float:
        """Coefficient of variation of the reference kernel so far."""
        return float(np.std(self.references) / np.mean(self.references)) if self.references else 0.0

    def drift(self) -> float:
        """How much slower the machine runs now than at `ms`, by the last reference timings."""
        self.references.append(_quick(self.reference))
        return float(np.median(self.references[self.begun :][-REFERENCES:])) / self.ms


def difference(one: Runner, many: Runner, pace: Pace) -> float:
    """ms that `many` takes more: the two in turns, of each the 20th percentile, which other processes do not reach."""
    one.times(10)
    once = float(np.median(many.times(10))) / 1e3
    runs = int(np.clip(TURN_SECONDS / once, 3, RUNS_PER_TURN))
    times: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for _ in range(TURNS):
        times[0].append(one.times(runs))
        times[1].append(many.times(runs))
    low, high = (float(np.percentile(np.concatenate(found), 20)) for found in times)
    return (high - low) / pace.drift()


def network_ms(runner: Runner, pace: Pace) -> float:
    """ms of a whole network, as `difference` times a kernel: in turns with the reference, of each the 20th percentile.

    Where a session's memory lies moves this by a few percent: the median of several calls, each with a session of its
    own, is worth more than one long call.
    """
    runner.warm(TURN_SECONDS, RUNS_PER_TURN)
    found, drifts = [], []
    for _ in range(TURNS):
        found.append(float(np.percentile(runner.times_for(TURN_SECONDS), 20)))
        drifts.append(pace.drift())
    return float(np.median(found) / np.median(drifts))


def _quick(runner: Runner) -> float:
    return float(np.percentile(runner.times(RUNS_PER_TURN), 20))


# The full protocol, for a number that is published

WITHIN, BETWEEN = 0.025, 0.05
"""Above these coefficients of variation, within a session and between sessions, a timing is unstable."""
BLOCKS = 10
"""Turns of the model and the reference kernel in a session."""
HOW = "batch 1, sequential, all graph optimisations, denormals not flushed"


@dataclass(frozen=True)
class Timing:
    """How long one image takes, in ms, and what says so.

    `low_ms` to `high_ms` holds 95 % of the medians of short turns; `within` and `between` are the coefficients of
    variation of those medians in a session and of the sessions' medians. `reference_ms` is a fixed small network timed
    in turns with the model: the ratio of the two survives a machine that slows down.
    """

    p50_ms: float
    p95_ms: float
    runs: int
    stable: bool
    runtime: str
    threads: int
    provider: str
    low_ms: float
    high_ms: float
    within: float
    between: float
    sessions: int
    seconds: float
    reference_ms: float
    load: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def time_runs(
    open_runner: Callable[[], Runner],
    reference: Runner,
    *,
    runtime: str,
    provider: str,
    threads: int,
    seconds: float,
    sessions: int = 3,
    warm_seconds: float = 0.3,
    warm_runs: int = 20,
) -> Timing:
    """The latency of whatever `open_runner` opens anew for each session: `seconds` in all, in turns with `reference`.

    Each session warms up by time and by runs. The turns' medians, not single runs, decide whether the timing is
    stable: a run that another process interrupts counts in the p95, not in the verdict.
    """
    started = time.monotonic()
    turns: list[list[np.ndarray]] = []
    references: list[float] = []
    for _ in range(sessions):
        runner = open_runner()
        runner.warm(warm_seconds, warm_runs)
        reference.warm(0.0, warm_runs)
        turns.append([])
        for _ in range(BLOCKS):
            references.append(float(np.median(reference.times(10))))
            turns[-1].append(runner.times_for(seconds / sessions / BLOCKS))
    runs = np.concatenate([turn for session in turns for turn in session])
    medians = np.array([[np.median(turn) for turn in session] for session in turns])
    of_sessions = np.array([np.median(np.concatenate(session)) for session in turns])
    within = float(np.max(medians.std(axis=1) / medians.mean(axis=1)))
    between = float(of_sessions.std() / of_sessions.mean())
    return Timing(
        p50_ms=float(np.median(runs)),
        p95_ms=float(np.percentile(runs, 95)),
        runs=int(runs.size),
        stable=within <= WITHIN and between <= BETWEEN,
        runtime=runtime,
        threads=threads,
        provider=provider,
        low_ms=float(np.percentile(medians, 2.5)),
        high_ms=float(np.percentile(medians, 97.5)),
        within=within,
        between=between,
        sessions=sessions,
        seconds=time.monotonic() - started,
        reference_ms=float(np.median(references)),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan,
    )


# The layout of the runtime, read from the graph that it makes of a probe


def block_of(probe: bytes) -> int:
    """Channels in a block of ONNX Runtime's convolution layout on this machine, 0 for the plain layout.

    `probe` is a model with a 3x3 convolution of four filters, which a blocked layout pads to one block.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        open_session(probe, 1, optimised=optimised)
        graph = next(value for number, value in _fields(optimised.read_bytes()) if number == 7)
    parts = list(_fields(graph))
    shapes = dict(_shape(value) for number, value in parts if number == 5)
    for node in (list(_fields(value)) for number, value in parts if number == 1):
        inputs = [value for number, value in node if number == 1]
        if (4, b"Conv") in node and (7, b"com.microsoft.nchwc") in node:
            shape = shapes.get(inputs[1], [])
            if shape[2:] == [3, 3]:
                return shape[0]
    return 0


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a protobuf message; what has a length is bytes, a varint an int.

    The numbers used here are those of onnx.proto: ModelProto graph 7; GraphProto node 1, initializer 5; NodeProto
    input 1, op_type 4, domain 7; TensorProto dims 1, name 8.
    """
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield tag >> 3, value
            continue
        length = {1: 8, 5: 4}.get(kind)
        if length is None:
            length, place = _varint(message, place)
        yield tag >> 3, message[place : place + length]
        place += length


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def _shape(tensor: bytes) -> tuple[bytes, list[int]]:
    """Name and dimensions of a TensorProto, whose dimensions may be packed."""
    name, shape = b"", []
    for number, value in _fields(tensor):
        if number == 8:
            name = value
        elif number == 1 and isinstance(value, int):
            shape.append(value)
        elif number == 1:
            place = 0
            while place < len(value):
                size, place = _varint(value, place)
                shape.append(size)
    return name, shape


# What runs the models


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


# The machine


def processor() -> dict[str, str]:
    """The first processor: what it calls itself, and a digest of its features (empty where the system is not Linux)."""
    found = {"cpu": platform.processor() or platform.machine(), "features": ""}
    for line in _read("/proc/cpuinfo").splitlines():
        label, _, value = (part.strip() for part in line.partition(":"))
        if label == "model name":
            found["cpu"] = value
        elif label in ("flags", "Features"):
            found["features"] = hashlib.sha256(value.encode()).hexdigest()[:12]
        elif label in ("CPU implementer", "CPU part"):  # what tells two ARM cores with the same features apart
            found["features"] += f" {value}"
        elif not label:  # the first processor is described
            break
    return found


def machine(runtime: str) -> dict[str, Any]:
    """What a latency measured here depends on."""
    board = _read("/proc/device-tree/model").strip("\0 \n") or _read("/sys/devices/virtual/dmi/id/product_name").strip()
    return {
        **processor(),
        "runtime": runtime,
        "board": board,
        "cores": os.cpu_count() or 1,
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def watch(seen: dict[str, Any]) -> None:
    """Add to `seen` what the machine shows now: [least, most] of load, clocks (MHz) and temperature (Celsius)."""
    cpus = [str(path) for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*")]
    clocks = [_read(f"{cpu}/cpufreq/scaling_cur_freq").strip() for cpu in cpus]
    heat = [_read(str(path)).strip() for path in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    now = {
        name: max((int(text) / 1e3 for text in texts if text.isdecimal()), default=None)
        for name, texts in (("clocks_mhz", clocks), ("temperature_c", heat))
    }
    now["load"] = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    for key, value in now.items():
        if value is not None:
            least, most = seen.get(key, (value, value))
            seen[key] = [min(least, value), max(most, value)]
    governors = {_read(f"{cpu}/cpufreq/scaling_governor").strip() for cpu in cpus} - {""}
    if governors:
        seen["governor"] = ", ".join(sorted(governors))
    counts = [_read(f"{cpu}/thermal_throttle/core_throttle_count").strip() for cpu in cpus]
    if any(counts):
        total = sum(int(count) for count in counts if count.isdecimal())
        seen.setdefault("throttle_count", total)
        seen["throttled"] = seen.get("throttled", False) or total > seen["throttle_count"]
    bits = _read("/sys/devices/platform/soc/soc:firmware/get_throttled").strip()  # Raspberry Pi
    if re.fullmatch("[0-9a-fA-F]+", bits):
        seen["throttled"] = seen.get("throttled", False) or bool(int(bits, 16) & 0xF)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(100_000)
    except OSError:
        return ""


# The kit and the results


class Kit:
    """The files of a kit, in a folder or still in the zip; each is held against its hash when it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place
        if not place.exists():
            raise Refused(
                f"a kit is a folder or zip of 'rcnas-edge profile kit', {place} is not there: name it by --kit"
            )
        try:
            self.archive = None if place.is_dir() else zipfile.ZipFile(place)
            raw = self._bytes("manifest.json")
            self.manifest: dict[str, Any] = json.loads(raw)
            version = self.manifest["kit"]
        except (KeyError, TypeError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise Refused(
                f"a kit has a manifest.json, {place} has none that can be read ({error}): copy it again"
            ) from error
        if version != KIT:
            raise Refused(f"this measure.py reads kits of version {KIT}, got {version!r}: take the one of the kit")
        self.digest = hashlib.sha256(raw).hexdigest()[:16]

    def read(self, name: str) -> bytes:
        """One file of the kit."""
        try:
            found = self._bytes(name)
        except (KeyError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise Refused(f"the kit's file {name} cannot be read ({error}): copy the kit again") from error
        if hashlib.sha256(found).hexdigest() != self.manifest["files"].get(name):
            raise Refused(f"the kit's file {name} is not as it was packed: copy the kit again")
        return found

    def check(self) -> str:
        """Read every file, and say that they are whole."""
        sizes = [len(self.read(name)) for name in self.manifest["files"]]
        return f"all {len(sizes)} files of the kit are as they were packed, {sum(sizes) / 1e6:.0f} MB"

    def _bytes(self, name: str) -> bytes:
        return (self.place / name).read_bytes() if self.archive is None else self.archive.read(name)


class Results:
    """results.json: what was timed so far; written whole, so that a kill leaves the last state or the one before."""

    SAVE_SECONDS = 3.0

    def __init__(self, path: Path, start: dict[str, Any]) -> None:
        """Go on from the file if it is there, of the same kit and machine; else begin with `start`."""
        self.path, self.content = path, start
        self.saved = -math.inf
        if not path.exists():
            return
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            same = [(key, known[key], start[key]) for key in ("results", "kit", "runtime", "machine")]
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise Refused(
                f"{path} is to be the results of this kit, it cannot be read ({error}): move it away"
            ) from error
        for key, there, here in same:
            of = ("cpu", "features", "runtime") if key == "machine" else ()
            if [there[part] for part in of] != [here[part] for part in of] if of else there != here:
                raise Refused(f"{path} holds results of another {key}: move it away, or name another file by --out")
        self.content = known

    def save(self, *, now: bool = True) -> None:
        """Write the file: `now`, or if the last time is long enough ago."""
        if not now and time.monotonic() - self.saved < self.SAVE_SECONDS:
            return
        aside = self.path.with_name(f".{self.path.name}.part")
        try:
            with open(aside, "w", encoding="utf-8") as file:
                json.dump(self.content, file, allow_nan=False)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, self.path)
        except OSError as error:
            raise Refused(
                f"{self.path} cannot be written ({error.strerror or error}): make room, or name another --out"
            ) from error
        self.saved = time.monotonic()

    def of(self, threads: int) -> dict[str, Any]:
        """What is known with so many threads."""
        empty: dict[str, Any] = {
            "pace_ms": None,
            "references_ms": [],
            "pairs": {},
            "networks": {},
            "failed": {},
            "seconds": 0.0,
        }
        return self.content["threads"].setdefault(str(threads), {**empty, "seen": {}, "when": _now()})


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


# The measuring

SHARE_OF_NETWORKS = 0.2
"""Of a budget of time, kept for whole networks."""


class Session:
    """The measuring of a kit with one number of threads: what is left to do, and one thing after the other.

    Kernels, and then networks, are timed in so many `passes`; `more` numbers of threads come afterwards.
    """

    def __init__(
        self, kit: Kit, runtime: Any, results: Results, plan: str, threads: int, passes: int, more: int, line: Line
    ) -> None:
        self.kit, self.runtime, self.results, self.plan, self.line = kit, runtime, results, plan, line
        self.threads, self.passes, self.more, self.state = threads, passes, more, results.of(threads)
        self.state["failed"] = {}  # it is tried again
        self.pace = Pace(
            runtime.open(kit.read(kit.manifest["reference"]), threads),
            ms=self.state["pace_ms"],
            references=self.state["references_ms"],
        )
        self.state["pace_ms"] = self.pace.ms
        self.names = {"pairs": kit.manifest["plans"][plan], "networks": list(kit.manifest["networks"])}
        self.seconds: dict[str, list[float]] = {"pairs": [], "networks": []}

    def run(self, pairs_until: float, networks_until: float) -> int:
        """Time what is missing until these moments of the monotonic clock; how many timings are left then.

        The first pass of the kernels leaves time for the networks.
        """
        try:
            for turn in range(1, self.passes + 1):
                self._each("pairs", turn, pairs_until if turn == 1 else networks_until, self._pair)
                self._each("networks", turn, networks_until, self._network)
        finally:  # also when the user interrupts
            self._keep(now=True)
        return sum(len(self._missing(kind, turn + 1)) for kind in self.names for turn in range(self.passes))

    def _each(self, kind: str, turn: int, until: float, work: Callable[[str], float]) -> None:
        """Time everything of a kind that has been timed less often than this."""
        todo = self._missing(kind, turn)
        for place, name in enumerate(todo):
            started = time.monotonic()
            if started > until:
                break
            self._say(kind, turn, len(todo) - place)
            try:
                ms = float(f"{work(name):.6g}")
            except Exception as error:  # the runtimes' have no base; one model that does not run stops no other
                self.state["failed"][name] = f"{type(error).__name__}: {error}"[:300]
            else:
                self.state[kind].setdefault(name, []).append(ms)
                self.results.content[kind][name] = self._about(kind, name)
            spent = time.monotonic() - started
            self.seconds[kind].append(spent)
            self.state["seconds"] += spent
            self._keep(now=False)

    def _missing(self, kind: str, turn: int) -> list[str]:
        known = self.state[kind]
        return [
            name for name in self.names[kind] if len(known.get(name, ())) < turn and name not in self.state["failed"]
        ]

    def _about(self, kind: str, name: str) -> dict[str, Any]:
        """What the results have to say of a model; of the kernels of a network those of this runtime alone."""
        about = self.kit.manifest[kind][name]["about"]
        return {**about, "kernels": about["kernels"][self.plan]} if kind == "networks" else about

    def _pair(self, name: str) -> float:
        files = self.kit.manifest["pairs"][name]
        one, many = (self.runtime.open(self.kit.read(files[part]), self.threads) for part in ("one", "many"))
        found = difference(one, many, self.pace)
        return found if found > 0 else difference(one, many, self.pace)

    def _network(self, name: str) -> float:
        model = self.kit.read(self.kit.manifest["networks"][name]["file"])
        return network_ms(self.runtime.open(model, self.threads), self.pace)

    def _keep(self, *, now: bool) -> None:
        self.state["references_ms"] = [float(f"{ms:.6g}") for ms in self.pace.references]
        self.state["stable"] = self.pace.spread <= STEADY
        watch(self.state["seen"])
        self.results.save(now=now)

    def _say(self, kind: str, turn: int, left: int) -> None:
        what = {"pairs": "kernels"}.get(kind, kind) + (f", pass {turn}," if turn > 1 else "")
        total = len(self.names[kind])
        self.line.show(f"{self.threads} thread(s): {what} {total - left} of {total}", self._time_left())

    def _time_left(self) -> float | None:
        """Seconds for what is missing and for the other numbers of threads, None while nothing was timed."""
        if not self.seconds["pairs"] and not self.seconds["networks"]:
            return None
        pair = float(np.mean(self.seconds["pairs"] or self.seconds["networks"]))
        network = float(np.mean(self.seconds["networks"] or self.seconds["pairs"]))
        seconds = 0.0
        for kind, each in (("pairs", pair), ("networks", network)):
            left = sum(len(self._missing(kind, turn + 1)) for turn in range(self.passes))
            seconds += each * (left + self.more * self.passes * len(self.names[kind]))
        return seconds


class Line:
    """Progress on one line of a terminal; where the words go to a file, a line now and then."""

    EVERY_SECONDS = 30.0

    def __init__(self, until: float) -> None:
        self.until, self.last, self.open = until, -math.inf, False

    def show(self, text: str, seconds: float | None) -> None:
        """What is done, and the time left if it is known, at most until the budget is spent."""
        now = time.monotonic()
        left = "" if seconds is None else f", {in_words(max(0.0, min(seconds, self.until - now)))} left"
        if sys.stdout.isatty():
            sys.stdout.write(f"\r{text}{left}".ljust(79))
            sys.stdout.flush()
            self.open = True
        elif now - self.last > self.EVERY_SECONDS:
            tell(f"{text}{left}")
            self.last = now

    def end(self) -> None:
        """The next words begin a line."""
        if self.open:
            tell("")


def tell(text: str) -> None:
    """One line for the person at the board."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def in_words(seconds: float) -> str:
    """A time as a person says it."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def seconds_of(text: str) -> float:
    """A time as 90s, 10min or 1h; a bare number is seconds."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(s|min|h|)", text.strip())
    if not found or float(found[1]) <= 0:
        raise Refused(f"a time is above 0, as 90s, 10min or 1h, got {text!r}")
    return float(found[1]) * {"s": 1, "": 1, "min": 60, "h": 3600}[found[2]]


def threads_of(text: str | None, kit: Kit) -> list[int]:
    """The numbers of threads that are asked for, as 1,2; by default those of the kit that the machine has cores for."""
    cores = os.cpu_count() or 1
    if text is None:
        return [threads for threads in kit.manifest["threads"] if threads <= cores] or [1]
    if not re.fullmatch(r"[1-9][0-9]{0,3}(,[1-9][0-9]{0,3})*", text) or max(map(int, text.split(","))) > cores:
        raise Refused(f"--threads are from 1 to the {cores} cores of this machine, as 1,2, got {text!r}")
    return sorted(set(map(int, text.split(","))))


# The command line


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
    parser.add_argument("--seconds", default="10s", help="how long a --model is timed; default 10s")
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


def measure(
    kit: Kit, runtime: Any, results: Results, plan: str, threads: Sequence[int], budget: float, passes: int = 1
) -> int:
    """Time the kit with each number of threads, within so many seconds in all; how many timings are left."""
    begun, left = time.monotonic(), 0
    for place, count in enumerate(threads):
        share = (begun + budget - time.monotonic()) / (len(threads) - place)
        start = time.monotonic()
        line = Line(begun + budget)
        session = Session(kit, runtime, results, plan, count, passes, len(threads) - place - 1, line)
        try:
            left += session.run(start + (1 - SHARE_OF_NETWORKS) * share, start + share)
        finally:
            line.end()
        state, failed = session.state, session.state["failed"].values()
        steady = "steady" if state["stable"] else "UNSTEADY: other work, clocks or heat changed its pace; measure again"
        tell(
            f"{count} thread(s): {len(state['pairs'])} kernels and {len(state['networks'])} networks in "
            f"{in_words(state['seconds'])}, the machine was {steady}"
            + (f"; {len(state['failed'])} could not be timed ({next(iter(failed))})" if failed else "")
            + ("; it was THROTTLED by heat or supply" if state["seen"].get("throttled") else "")
        )
    return left


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
    entry = {"file": path.name, "sha256": digest, "when": _now(), **timing.to_dict()}
    entry["load"] = None if math.isnan(timing.load) else timing.load  # not told on Windows
    results.content["models"] = [*known, entry]
    results.save()
    tell(
        f"{path.name}, {threads} thread(s): p50 {timing.p50_ms:.4g} ms (95 % of turns {timing.low_ms:.4g} to "
        f"{timing.high_ms:.4g}), p95 {timing.p95_ms:.4g} ms, {'stable' if timing.stable else 'UNSTABLE'}"
    )


if __name__ == "__main__":
    sys.exit(main())
