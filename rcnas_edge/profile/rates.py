"""Rates: what a kernel that nobody measured takes, from its operation and its work.

time = ms + ms_per_mmac x MMACs + ms_per_mb x MB read and written (10^6 each), per operation: what a fit to published
measurements of whole networks finds, and what a data sheet gives. A roofline estimate is written in the same form
(1 / (peak MAC/s x efficiency), 1 / bandwidth); the sum of its two terms, not their maximum, is the pessimistic
roofline: nothing overlaps (Williams et al., CACM 2009, take the maximum).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from rcnas_edge.errors import InputError
from rcnas_edge.profile.bounds import MOST, check_choice, check_mapping, check_number, shown
from rcnas_edge.profile.fusion import DEPTHWISE, OPERATIONS, Kernel
from rcnas_edge.profile.table import work

DEPTHWISE_RATE, GROUPED_RATE, POINTWISE_RATE, OTHER = "depthwise", "grouped", "pointwise", "other"
RATED = (*OPERATIONS, DEPTHWISE_RATE, GROUPED_RATE, POINTWISE_RATE, OTHER)
"""What may have a rate: also convolutions by their groups or of kernel 1, and all that has no rate of its own."""
WITH_MACS = ("conv", DEPTHWISE_RATE, GROUPED_RATE, POINTWISE_RATE, "linear")
LEAST = 1e-12
"""Of a number that is not 0: a kernel's time does not vanish."""


class Rate(NamedTuple):
    """The time of one operation: ms per kernel, per 10^6 multiply-accumulates, per 10^6 bytes read and written."""

    ms: float = 0.0
    ms_per_mmac: float = 0.0
    ms_per_mb: float = 0.0


@dataclass(frozen=True)
class Rates:
    """A rate per operation; `other` is that of every operation without one, so that each kernel has a time.

    A depthwise convolution without a rate `depthwise` has that of `grouped`, and a grouped one that of `conv`, as has
    one of kernel 1 without a rate `pointwise`.
    """

    by_operation: Mapping[str, Rate]

    def __post_init__(self) -> None:
        if OTHER not in check_mapping("rates", self.by_operation):
            raise InputError(
                f"rates have one called {OTHER!r}, for every operation without its own, there is none among "
                f"{shown(list(self.by_operation))}: add it"
            )
        for operation, rate in self.by_operation.items():
            check_choice("the operation of a rate", operation, RATED)
            for name, value in zip(Rate._fields, rate, strict=True):
                if value != 0 or isinstance(value, bool):
                    check_number(f"{name} of {operation}, where it is not 0,", value, least=LEAST, most=MOST)
            if rate.ms == rate.ms_per_mb == 0 and (operation not in WITH_MACS or rate.ms_per_mmac == 0):
                raise InputError(
                    f"a rate gives every kernel a time above 0, {operation} has ms = {rate.ms}, ms_per_mmac = "
                    f"{rate.ms_per_mmac}, ms_per_mb = {rate.ms_per_mb} (only convolutions and linear layers have "
                    f"MACs): leave it out, and {OTHER!r} counts"
                )

    def of(self, kernel: Kernel) -> float:
        """ms of a kernel for one image; MB are of fp32 numbers, 4 bytes each, at every precision."""
        one, macs, read_and_written = work(kernel)
        rate = self._rate(kernel)
        return rate.ms * one + rate.ms_per_mmac * 1e-6 * macs + rate.ms_per_mb * 1e-6 * read_and_written

    def _rate(self, kernel: Kernel) -> Rate:
        operation, groups = kernel[0], kernel[4]
        names: tuple[str, ...] = (operation,)
        if operation == "conv" and groups == DEPTHWISE:
            names = (DEPTHWISE_RATE, GROUPED_RATE, operation)
        elif operation == "conv" and groups > 1:
            names = (GROUPED_RATE, operation)
        elif operation == "conv" and kernel[2] == 1:
            names = (POINTWISE_RATE, operation)
        return next((self.by_operation[name] for name in names if name in self.by_operation), self.by_operation[OTHER])
