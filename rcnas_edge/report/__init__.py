"""What a run found, as values that check themselves: `report.json` for programs, `report.html` for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rcnas_edge.checkpoint import write_json, write_whole
from rcnas_edge.errors import InputError
from rcnas_edge.report.fields import refuse
from rcnas_edge.report.html import page
from rcnas_edge.report.schema import SCHEMA, SCHEMA_NUMBER
from rcnas_edge.report.words import name_of


def report(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a run found as the content of report.json; InputError names the field that is missing, unknown or wrong.

    `task` and `seed` are always needed. Any other section may be left out or None: the run did not get there, and
    `failed` may say why in one sentence. A section that is there has all its fields (`SCHEMA`). Keys that are not in
    the schema are let through in `task`, `versions`, `architecture` and its stages, and nowhere else.

    * `cost` and `teacher["cost"]` are objects by target: {"host/fp32/1": {"macs": ..., "params": ..., "size": ...,
      "memory": ..., "latency": ms or None, "measured": share}}; `flops` is filled in as 2 x macs.
    * `architecture`: {"family": "wrn", "name": ..., "options": {gene: option}, "stages": [{"name", "depth", "width",
      "block"}], "teacher_stages": [the same of the teacher]}; stages stand side by side by their name.
    * every accuracy is a rate as `Rate.to_dict()` writes it.
    """
    values = dict(values)
    if values.pop("schema", SCHEMA_NUMBER) != SCHEMA_NUMBER:
        raise InputError(f"report.json's schema is {SCHEMA_NUMBER} here, got another: write it anew with this version")
    notes: list[str] = []
    content = {"schema": SCHEMA_NUMBER, **SCHEMA.read(values, "", notes)}
    for at, rate in _rates(content, ""):
        if rate["total"] < 1 or rate["hits"] > rate["total"]:
            raise refuse(at, "a rate with hits <= total and total >= 1", f"{rate['hits']} of {rate['total']}")
        if abs(rate["value"] - rate["hits"] / rate["total"]) > 1e-6:
            raise refuse(f"{at}.value", f"hits / total = {rate['hits'] / rate['total']:g}", rate["value"])
    for costs in (content["cost"], (content["teacher"] or {}).get("cost")):
        for target, cost in (costs or {}).items():
            _fill_flops(cost, target)
    _check_targets(content)
    for index, artefact in enumerate(content["artefacts"] or []):
        verdict = artefact["verdict"]
        if verdict and verdict["sha256"] not in (None, "", artefact["sha256"]):
            raise refuse(f"artefacts[{index}].verdict.sha256", "that of the artefact", verdict["sha256"])
        if verdict and verdict["flags"] and verdict["decision"] == "robust":
            raise refuse(f"artefacts[{index}].verdict.decision", "never robust while a flag is raised", "robust")
    if notes:
        content["not_checked"] = [*(content["not_checked"] or []), *notes]
    return content


def _rates(value: Any, at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        if {"hits", "total"} <= value.keys():
            yield at, value
        for key, entry in value.items():
            yield from _rates(entry, f"{at}.{key}" if at else key)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _rates(entry, f"{at}[{index}]")


def _fill_flops(cost: dict[str, Any] | None, target: str) -> None:
    if cost is None or cost["macs"] is None:
        return
    if cost["flops"] not in (None, 2 * cost["macs"]):
        raise refuse(f"cost.{target}.flops", f"2 x macs = {2 * cost['macs']}", cost["flops"])
    cost["flops"] = 2 * cost["macs"]


def _check_targets(content: Mapping[str, Any]) -> None:
    """Budgets and costs name targets of the run, so that a reader can join them."""
    if content["targets"] is None:
        return
    known = [name_of(target) for target in content["targets"]]
    named = [(f"budgets[{index}].target", row["target"]) for index, row in enumerate(content["budgets"] or [])]
    named += [("cost", target) for target in content["cost"] or {}]
    named += [("teacher.cost", target) for target in (content["teacher"] or {}).get("cost") or {}]
    for at, target in named:
        if target not in known:
            raise refuse(at, f"one of the run's targets ({', '.join(known) or 'none'})", target)


def write_report(folder: Path, values: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write report.json and report.html into a run's folder, whole or not at all; values as for `report`."""
    content = report(values)
    json_path, html_path = folder / "report.json", folder / "report.html"
    write_json(json_path, content)
    html = page(content).encode("utf-8")
    write_whole(html_path, lambda aside: _write(aside, html))
    return json_path, html_path


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
