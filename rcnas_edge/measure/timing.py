"""Times a network on this machine, with the evidence that a latency needs to be believed.

What is timed is what `deploy` runs: ONNX Runtime's CPU provider, batch 1, one call at a time, all graph
optimisations. Denormals are left as they are: the runtime's option to flush them acts once per process, for whoever
opens the first session, so a timing that relied on it would not be that of the shipped network. How it is timed stands
in `board.timing`, which a board without this package runs too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rcnas_edge.board import timing as protocol
from rcnas_edge.board.timing import Beside, Runner, Timing
from rcnas_edge.board.words import Refused
from rcnas_edge.errors import InputError
from rcnas_edge.measure.rowgraph import graph_of
from rcnas_edge.measure.specimen import specimen
from rcnas_edge.profile import machine

if TYPE_CHECKING:
    import onnxruntime

__all__ = [
    "Beside",
    "Runner",
    "Timing",
    "layout_probe",
    "open_session",
    "pace_model",
    "reference_model",
    "session_runner",
    "time_beside",
    "time_model",
    "time_runs",
]

CPU = "CPUExecutionProvider"
REFERENCE = ("conv", "blocked", 3, 1, 1, 8, 8, 32, 32)
"""The kernel of the reference network: a 3x3 convolution of 32 channels at 8x8."""


def time_model(
    model: bytes | str | Path,
    *,
    threads: int = 1,
    seconds: float = 3.0,
    sessions: int = 3,
    warm_seconds: float = 0.3,
    warm_runs: int = 20,
    rest_ms: float | None = None,
) -> Timing:
    """Latency of an ONNX model for one image on this machine: `seconds` in all, in `sessions` fresh sessions.

    The final number of a report takes 10 s. Each session warms up by time and by runs, then takes turns with a
    reference kernel, and turns count in which this was as quick as on the machine at rest: `rest_ms`, if a profile
    knows it. While the machine is slower there are more, for three times the seconds or half a minute.
    """
    return time_runs(
        lambda: session_runner(model, threads),
        runtime=f"{machine()['runtime']}, {protocol.HOW}",
        provider=CPU,
        threads=threads,
        seconds=seconds,
        sessions=sessions,
        warm_seconds=warm_seconds,
        warm_runs=warm_runs,
        rest_ms=rest_ms,
    )


def time_beside(
    model: bytes | str | Path,
    other: bytes | str | Path,
    *,
    threads: int = 1,
    seconds: float = 3.0,
    rest_ms: float | None = None,
    rest_seconds: float | None = None,
) -> Beside:
    """`time_model` of two models in turns: what the first takes of the other's time holds at about any pace."""
    _check(seconds, 1, threads)
    return protocol.time_beside(
        lambda: session_runner(model, threads),
        lambda: session_runner(other, threads),
        session_runner(reference_model(), threads),
        runtime=f"{machine()['runtime']}, {protocol.HOW}",
        provider=CPU,
        threads=threads,
        seconds=seconds,
        rest_ms=rest_ms,
        rest_seconds=rest_seconds,
    )


def time_runs(
    open_runner: Callable[[], Runner],
    *,
    runtime: str,
    provider: str,
    threads: int = 1,
    seconds: float = 3.0,
    sessions: int = 3,
    warm_seconds: float = 0.3,
    warm_runs: int = 20,
    rest_ms: float | None = None,
) -> Timing:
    """`time_model` for whatever can be opened and run on one image: `open_runner` opens it anew for each session."""
    _check(seconds, sessions, threads)
    return protocol.time_runs(
        open_runner,
        session_runner(reference_model(), threads),
        runtime=runtime,
        provider=provider,
        threads=threads,
        seconds=seconds,
        sessions=sessions,
        warm_seconds=warm_seconds,
        warm_runs=warm_runs,
        rest_ms=rest_ms,
    )


def _check(seconds: float, sessions: int, threads: int) -> None:
    if seconds <= 0 or sessions < 1 or threads < 1:
        raise InputError(
            f"a timing takes seconds > 0, sessions >= 1 and threads >= 1, got {seconds}, {sessions} and {threads}"
        )


def session_runner(model: bytes | str | Path, threads: int) -> Runner:
    """An open session with an image to run it on; InputError for a model that does not load or takes no image."""
    try:
        return protocol.session_runner(model, threads)
    except Refused as error:
        raise InputError(str(error)) from error


def open_session(
    model: bytes | str | Path, threads: int, *, optimised: Path | None = None
) -> onnxruntime.InferenceSession:
    """A session as `deploy` opens it; `optimised` also writes the graph that the runtime makes of the model."""
    try:
        return protocol.open_session(model, threads, optimised=optimised)
    except Refused as error:
        raise InputError(str(error)) from error


def reference_model() -> bytes:
    """The fixed kernel that tells a slow machine from a slow network."""
    return graph_of(specimen(REFERENCE, 4)).SerializeToString()


def pace_model() -> bytes:
    """The reference kernel as old runtimes read it too: what its operators compute is the same since opset 17."""
    import onnx

    proto = onnx.load_from_string(reference_model())
    proto.opset_import[0].version, proto.ir_version = 17, 8
    onnx.checker.check_model(proto, full_check=True)
    return proto.SerializeToString(deterministic=True)


def layout_probe() -> bytes:
    """A model whose optimised graph shows how the runtime lays out a convolution (`board.layout.block_of`)."""
    return graph_of(specimen(("conv", "blocked", 3, 1, 1, 8, 8, 32, 4), 1)).SerializeToString()
