"""What can go wrong, each with the exit code that a script or a CI can act on."""

from __future__ import annotations


class RcnasError(Exception):
    """Anything the user can act on; its text is one sentence: the rule, the value it got, the way out."""

    exit_code = 2


class InputError(RcnasError):
    """A file, flag, configuration, plugin, image or model that cannot be used (exit code 2)."""


class MissingPackage(InputError):
    """An optional package is not installed; the text says what to install."""

    def __init__(self, package: str, purpose: str, install: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed: {install}")


class BudgetError(RcnasError):
    """A budget cannot be met, or was not met (exit code 3)."""

    exit_code = 3


class UncheckedError(RcnasError):
    """What was asked for could not be checked, so nothing is claimed about it (exit code 5)."""

    exit_code = 5


class TrainingError(RcnasError):
    """Training failed: a loss that is not a number, or memory that ran out after the retry (exit code 6)."""

    exit_code = 6


class DivergedError(TrainingError):
    """The training loss is no longer a number."""
