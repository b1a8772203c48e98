"""The switches of a process, each tried in a process of its own."""

import os
import platform
import subprocess
import sys

import pytest

from rcnas_edge.process import VARIABLES

PASSES = """
import resource, sys, torch
from rcnas_edge.process import keep_freed_memory
torch.set_num_threads(1)
print(keep_freed_memory() if sys.argv[1] == "kept" else False)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def a_pass():
    return torch.ones(1 << 24)[0].item()  # 64 MiB
for _ in range(10):  # until small blocks have found places that are not in its way
    a_pass()
before = faults()
for _ in range(10):
    a_pass()
print(faults() - before)
"""


def run(program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True, env=environment
    )


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such switch")
def test_freed_memory_is_kept_for_the_next_pass() -> None:
    could, kept = run(PASSES, "kept").stdout.split()
    assert could == "True"
    _, given_back = run(PASSES, "given back").stdout.split()
    # ten passes are 163,840 pages of 4 KiB
    assert int(kept) < 100 < 100_000 < int(given_back)


def test_what_a_user_said_of_memory_stands() -> None:
    assert run(PASSES, "kept", MALLOC_TRIM_THRESHOLD_="131072").stdout.split()[0] == "False"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the switch is known on x86 only")
@pytest.mark.parametrize(("before", "flushed"), [("", "True"), ("torch.full((1 << 20,), 1.0)", "False")])
def test_every_worker_flushes_denormals_only_when_asked_first(before: str, flushed: str) -> None:
    done = run(
        f"import torch\ntorch.set_num_threads(2)\n{before}\n"
        "from rcnas_edge.process import flush_denormals\nprint(flush_denormals())"
    )
    assert done.stdout.split() == [flushed]
    assert ("call it first" in done.stderr) == (flushed == "False")
