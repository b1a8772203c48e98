"""Where a network runs: the device, the precision of its numbers, the threads of the runtime."""

from __future__ import annotations

from dataclasses import dataclass

from rcnas_edge.errors import InputError
from rcnas_edge.profile.bounds import MOST_THREADS, PRECISIONS, check_count, check_name


@dataclass(frozen=True)
class Target:
    """Where a network runs: a profile, a precision and a number of threads; written host/fp32/1."""

    profile: str = "host"
    precision: str = "fp32"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"a precision is one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        check_count("threads", self.threads, most=MOST_THREADS)
        check_name(self.profile)

    @property
    def setting(self) -> str:
        """Precision and threads, the part that a profile's tables are keyed by: fp32/1."""
        return f"{self.precision}/{self.threads}"

    def __str__(self) -> str:
        return f"{self.profile}/{self.setting}"

    @classmethod
    def parse(cls, text: str) -> Target:
        """A target from `profile`, `profile/precision` or `profile/precision/threads`."""
        parts = text.split("/")
        if len(parts) > 3 or (len(parts) == 3 and not (parts[2].isdecimal() and len(parts[2]) < 10)):
            raise InputError(f"a target is profile/precision/threads, as host/fp32/1, got {text!r}")
        precision = parts[1] if len(parts) > 1 else cls.precision
        return cls(parts[0], precision, int(parts[2]) if len(parts) > 2 else cls.threads)
