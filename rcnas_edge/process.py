"""Switches of this process without which attacks and trainings take longer on a CPU, with the same results."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import platform

import torch

logger = logging.getLogger(__name__)

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
"""By which a user sets the same for a program; then it is left alone."""
KEPT = 1 << 30
"""Bytes of freed memory that are kept at most, and the size of the blocks that are given back at once."""
OLD_LIMIT = 1 << 25
"""Bytes: the largest block that glibc before 2.35 can be told to keep."""


@functools.cache
def prepare_process() -> None:
    """Flush denormal numbers and keep freed memory, from now on: call it before torch computes anything."""
    flush_denormals()
    keep_freed_memory()


def flush_denormals() -> bool:
    """Flush denormal numbers to zero in this process.

    Gradients of well-fitted examples are denormal, and a CPU computes those many times slower. The switch acts on
    the calling thread, and torch's worker threads inherit it only when they start, at the first parallel operation.
    Returns whether every worker flushes; if some started before, a warning says so, and results stay right, only
    slower.
    """
    if not torch.set_flush_denormal(True):
        logger.warning("this CPU cannot flush denormal numbers: attacks will be slower")
        return False
    tiny = torch.full((1 << 20,), 1e-30) * 1e-10
    if torch.count_nonzero(tiny):
        logger.warning(
            "torch's worker threads started before prepare_process and do not flush denormals: call it first"
        )
        return False
    return True


def keep_freed_memory() -> bool:
    """Have glibc keep up to 1 GiB of freed memory, where it would give large blocks back to the system at once.

    Every pass through a network asks for the same megabytes as the one before. Given back in between, each of their
    pages is cleared and mapped anew: a verdict of level smoke spent 48 s in the system and takes 11 s so, 119 s in all
    instead of 128 (`rcnas-edge verify` of a network of 7.07 M MACs on Fashion-MNIST, n = 256, seed 0, AMD EPYC, 2
    cores). Returns whether it could be set: not with another C library, nor where one of glibc's own environment
    variables says otherwise.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in VARIABLES):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    large = mallopt(MMAP_THRESHOLD, KEPT) or mallopt(MMAP_THRESHOLD, OLD_LIMIT)
    return bool(large and mallopt(TRIM_THRESHOLD, KEPT))
