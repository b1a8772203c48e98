"""The section of report.html about boards: what was seen of the files on each, and what that is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

from rcnas_edge.report.markup import element
from rcnas_edge.report.words import amount, facts, interval, percent, table

Content = Mapping[str, Any]
WORTH = (
    "A replay shows the board stored images and the points that attacks made of them on the host. It is transfer: "
    "fewer right answers than on the host are real, as many say that the host's verdict carries over to the board's "
    "arithmetic, and no more than that verdict did."
)


def boards(content: Content) -> list[Element]:
    """Each board: what it is, and per file latency, answers to the reference images, and the replay."""
    if not content["boards"]:
        words = (
            "No board has sent results. Copy the folder bundle/ there, run its run.py, and bring results.json back "
            "with 'rcnas-edge verify --out RUN --import results.json'."
        )
        return [element("p", words)]
    found: list[Element] = []
    for board in content["boards"]:
        found.append(element("h3", board["name"]))
        found.append(element("p", _machine(board)))
        found.append(table(HEAD, [_row(row) for row in board["files"]], label=f"Files on {board['name']}"))
        for row in board["files"]:
            if row["replay"]:
                reasons = "; ".join(row["replay"]["reasons"])
                found.append(
                    element("p", element("strong", f"{row['file']}: {row['replay']['decision']}. "), f"{reasons}.")
                )
    return [*found, element("p", WORTH, class_="note")]


def bundle(content: Content) -> list[Element]:
    """The folder that ships: its digest, its files, what it can be replayed with."""
    made = content["bundle"]
    replay = (
        f"{made['replay_images']} test images and {made['replay_points']} points that attacks made of them"
        if made["replay_images"]
        else "none: it was made before the network was attacked"
    )
    rows = [("folder", made["path"]), ("digest", made["digest"]), ("files", ", ".join(made["files"]))]
    return [facts([*rows, ("stored examples", replay)])]


HEAD = ("File", "Runtime", "Latency, median", "Reference answers", "Replay", "Adversarial accuracy", "Clean accuracy")


def _machine(board: Mapping[str, Any]) -> str:
    machine = board["machine"] or {}
    named = ("board", "cpu", "gpu", "system")
    what = ", ".join(str(machine[key]) for key in named if machine.get(key))
    cores = f", {machine['cores']} cores" if machine.get("cores") else ""
    whole = {True: "every file of the bundle was whole", False: "files of the bundle were DAMAGED", None: ""}
    parts = [
        f"{what}{cores}",
        f"it is the target {board['target']}" if board["target"] else "it is none of the run's targets",
        "its results were imported" if board["source"] == "imported" else f"measured by {board['source']!r}",
        whole[board["files_whole"]],
    ]
    return "; ".join(part for part in parts if part) + "."


def _row(row: Mapping[str, Any]) -> tuple[Any, ...]:
    latency, replay = row["latency"], row["replay"] or {}
    steady = "" if latency is None or latency["stable"] else "NOT stable"
    runs_on = (row["runtime"], f"{row['provider']}, threads: {row['threads']}")
    engine = "" if row["of_sha256"] == row["sha256"] else f"built there of {row['of']}"
    answers = {True: "as expected", False: "OTHERWISE", None: "not tested"}[row["as_expected"]]
    drift = "" if row["drift"] is None else f"off by {row['drift']:.2g} of the largest logit"
    return (
        (row["file"], engine),
        runs_on,
        ("not measured", "") if latency is None else (amount(latency["p50_ms"], "ms"), steady),
        (answers, drift),
        (replay.get("decision") or "not replayed", f"{replay['points']} points" if replay.get("points") else ""),
        _rate(replay.get("robust"), replay.get("host_robust")),
        _rate(replay.get("clean"), replay.get("host_clean")),
    )


def _rate(rate: Mapping[str, Any] | None, host: Mapping[str, Any] | None) -> tuple[str, str]:
    """A rate with its interval, and the host's below."""
    if rate is None:
        return "not known", ""
    there = "" if host is None else f"; on the host {percent(host['value'])}"
    return percent(rate["value"]), f"{interval(rate)}{there}"
