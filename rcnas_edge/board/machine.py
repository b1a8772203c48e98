"""What a latency depends on beside the network: the machine, and what it shows of itself."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np


def processor() -> dict[str, str]:
    """The first processor: what it calls itself, and a digest of its features (empty where the system is not Linux)."""
    found = {"cpu": platform.processor() or platform.machine(), "features": ""}
    for line in _read("/proc/cpuinfo").splitlines():
        label, _, value = (part.strip() for part in line.partition(":"))
        if label == "model name":
            found["cpu"] = value
        elif label in ("flags", "Features"):
            found["features"] = hashlib.sha256(value.encode()).hexdigest()[:12]
        elif label in ("CPU implementer", "CPU part"):  # what tells two ARM cores with the same features apart
            found["features"] += f" {value}"
        elif not label:  # the first processor is described
            break
    return found


def machine(runtime: str) -> dict[str, Any]:
    """What a latency measured here depends on."""
    board = _read("/proc/device-tree/model").strip("\0 \n") or _read("/sys/devices/virtual/dmi/id/product_name").strip()
    return {
        **processor(),
        "runtime": runtime,
        "board": board,
        "cores": os.cpu_count() or 1,
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def watch(seen: dict[str, Any]) -> None:
    """Add to `seen` what the machine shows now: [least, most] of load, clocks (MHz) and temperature (Celsius)."""
    cpus = [str(path) for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*")]
    clocks = [_read(f"{cpu}/cpufreq/scaling_cur_freq").strip() for cpu in cpus]
    heat = [_read(str(path)).strip() for path in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    now = {
        name: max((int(text) / 1e3 for text in texts if text.isdecimal()), default=None)
        for name, texts in (("clocks_mhz", clocks), ("temperature_c", heat))
    }
    now["load"] = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    for key, value in now.items():
        if value is not None:
            least, most = seen.get(key, (value, value))
            seen[key] = [min(least, value), max(most, value)]
    governors = {_read(f"{cpu}/cpufreq/scaling_governor").strip() for cpu in cpus} - {""}
    if governors:
        seen["governor"] = ", ".join(sorted(governors))
    counts = [_read(f"{cpu}/thermal_throttle/core_throttle_count").strip() for cpu in cpus]
    if any(counts):
        total = sum(int(count) for count in counts if count.isdecimal())
        seen.setdefault("throttle_count", total)
        seen["throttled"] = seen.get("throttled", False) or total > seen["throttle_count"]
    bits = _read("/sys/devices/platform/soc/soc:firmware/get_throttled").strip()  # Raspberry Pi
    if re.fullmatch("[0-9a-fA-F]+", bits):
        seen["throttled"] = seen.get("throttled", False) or bool(int(bits, 16) & 0xF)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(100_000)
    except OSError:
        return ""
