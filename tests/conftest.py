"""Shared doubles: a small robust teacher, trained once per session, and a cache of profiles of the session's own.

With pytest-xdist each worker is a session. Whole files go to a worker (`--dist loadfile`), since most files set
something up that their tests share.
"""

import math
import os

# before any import of torch, and for the processes that tests start
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does
os.environ.setdefault("OMP_NUM_THREADS", "1")  # one result on every machine, and as many workers as cores

from dataclasses import replace
from pathlib import Path

import pytest

from rcnas_edge.pipeline.console import Silent

ATTACK = "linf:0.03:5"
"""A ball in which a network that was trained for seconds is right on some images and wrong on others."""
SMOKE = {"images": 48, "sweep_images": 24}
"""What the level smoke attacks in tests of whole runs."""
WORKERS = 4
"""At most, with `pytest -n auto`: each holds a gigabyte, and measures this machine and trains a teacher for itself."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """As many as there are cores that this process may use, up to `WORKERS`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, WORKERS)


@pytest.fixture(scope="session", autouse=True)
def profile_cache(tmp_path_factory):
    """Profiles that tests measure stay out of the user's cache."""
    folder = tmp_path_factory.mktemp("profiles")
    from rcnas_edge import measure
    from rcnas_edge.board import timing
    from rcnas_edge.pipeline import beside, prepare, searching, shipping
    from rcnas_edge.verify import LEVELS

    LEVELS["smoke"] = replace(LEVELS["smoke"], **SMOKE)

    prepare.TIMING_SECONDS = searching.TIMING_SECONDS = 0.3
    shipping.FINAL_TIMING_SECONDS = beside.FINAL_TIMING_SECONDS = searching.FINAL_TIMING_SECONDS = 0.3
    prepare.SAMPLED_NETWORKS = 6
    prepare.QUICK_TABLE_SECONDS = {**prepare.QUICK_TABLE_SECONDS, "int8": 10.0}
    measure.CALIBRATION, measure.CHECK = 4, 2
    timing.PACE_SECONDS, timing.REST_SECONDS = 0.1, 1.0
    timing.Pace.patience, measure.OUTRUN_AT_MOST, prepare.AT_PACE = 0.0, 0, math.inf  # whatever else the machine does
    before = os.environ.get("RCNAS_CACHE")
    os.environ["RCNAS_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["RCNAS_CACHE"]
    else:
        os.environ["RCNAS_CACHE"] = before


@pytest.fixture(scope="session")
def small_teacher(tmp_path_factory) -> Path:
    """A WRN-10-1 trained for three epochs on 300 digits, attacked on the level smoke."""
    from rcnas_edge.pipeline.teach import TeacherSetting, teach

    folder = tmp_path_factory.mktemp("teacher")
    setting = TeacherSetting(
        network="wrn-10-1", subset=300, attack=ATTACK, epochs=3, attack_steps=3, level="smoke", device="cpu"
    )
    teach(setting, folder, Silent())
    return folder


@pytest.fixture(scope="session")
def translations() -> dict:
    """Graphs by the network that they were translated from."""
    return {}


@pytest.fixture(scope="module")
def quick_runs(translations):
    """For tests of whole runs: attacks of fewer steps, and no network is translated to ONNX twice.

    A translation takes two seconds, and the runs begin with that of the same teacher; all else of an export is done.
    """
    import onnx
    from rcnas_edge_exporters import onnx as exporting

    from rcnas_edge.export import weights_digest
    from rcnas_edge.verify import examination, sweep

    translate = exporting._translate

    def once(model, image, opset):
        key = (str(model), weights_digest(model), image, opset)
        if key not in translations:
            translations[key] = translate(model, image, opset)
        graph = onnx.ModelProto()
        graph.CopyFrom(translations[key])
        return graph

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(exporting, "_translate", once)
        patched.setattr(examination, "STEPS", 20)
        patched.setattr(sweep, "LADDER", (5, 10))
        yield
