"""rcnas_edge: compress an image classifier for an edge device and verify the robustness of the very file that ships.

run = rcnas_edge.compress("runs/demo", max_macs="40%", max_latency="60%")
print(run.verdict.summary(), run.artefact, run.exit_code)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rcnas_edge.api import Compressed as Compressed
    from rcnas_edge.api import compress as compress
    from rcnas_edge.errors import RcnasError as RcnasError
    from rcnas_edge.profile import DeviceProfile as DeviceProfile
    from rcnas_edge.setting import TaskSetting as TaskSetting
    from rcnas_edge.terminal import TerminalConsole as TerminalConsole

__version__ = "0.1.0"

_HOMES = {
    "Compressed": "rcnas_edge.api",
    "DeviceProfile": "rcnas_edge.profile",
    "RcnasError": "rcnas_edge.errors",
    "TaskSetting": "rcnas_edge.setting",
    "TerminalConsole": "rcnas_edge.terminal",
    "compress": "rcnas_edge.api",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """A public name, loaded when it is asked for: the package itself imports nothing, so that deploying stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
