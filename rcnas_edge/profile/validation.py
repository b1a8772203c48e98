"""What whole random networks said about the predictions of a profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rcnas_edge.errors import InputError
from rcnas_edge.profile.bounds import check_count, check_keys, check_mapping, check_number, check_setting

VALIDATED = {
    "n": 1e9,
    "within_2": 1.0,
    "within_5": 1.0,
    "within_10": 1.0,
    "mape": 1e3,
    "spearman": 1.0,
    "worst": 1e6,
    "seconds": 1e9,
}
"""The numbers and the most that each can be. `n` networks were timed in so many `seconds`; the others are fractions:
the networks predicted within 2, 5 and 10 %, the mean and the worst relative error, and the rank correlation."""


def check_validation(validation: object) -> None:
    """Raise InputError unless it holds such numbers by setting ("fp32/1" or "fp32/1/32x32"), `n` at least."""
    for setting, numbers in check_mapping("validation", validation).items():
        check_setting("validation", setting, sized=True)
        where = f"validation of {setting}"
        check_keys(where, check_mapping(where, numbers), VALIDATED)
        if "n" not in numbers:
            raise InputError(f"{where} says of how many networks it is, it has no n: add it")
        check_count(f"n of {where}", numbers["n"])
        for key, value in numbers.items():
            check_number(f"{key} of {where}", value, least=-1.0 if key == "spearman" else 0.0, most=VALIDATED[key])


def words(numbers: Mapping[str, Any]) -> str:
    """One line for people."""
    parts = [f"{numbers['n']} networks"]
    for key, called in (
        ("within_2", "within 2 %"),
        ("within_5", "within 5 %"),
        ("within_10", "within 10 %"),
        ("mape", "MAPE"),
        ("worst", "worst"),
    ):
        if key in numbers:
            share = f"{100 * numbers[key]:.3g} %"
            parts.append(f"{share} {called}" if key.startswith("within") else f"{called} {share}")
    if "spearman" in numbers:
        parts.append(f"Spearman {numbers['spearman']:.3f}")
    return ", ".join(parts)
