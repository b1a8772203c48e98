"""What a program on a board says to the person there, and what it takes for a time."""

from __future__ import annotations

import math
import re
import sys
import time

INTERRUPTED = 130


class Refused(Exception):
    """What the user can act on, in one sentence."""


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
