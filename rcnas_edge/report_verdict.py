"""The section of report.html about the files that ship: digest, measured latency, verdict, attacks, sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

from rcnas_edge.report_bars import Range, ranges
from rcnas_edge.report_drawing import Series, chart
from rcnas_edge.report_markup import element
from rcnas_edge.report_words import amount, decision, duration, epsilon_of, facts, flat, interval, percent, table

Content = Mapping[str, Any]
EXPLAINED = {
    "robust": "what was asked is met, and nothing speaks against the numbers",
    "not robust": "what was asked is not met",
    "inconclusive": "the numbers are there, and something speaks against relying on them",
    "not checked": "nothing is claimed about robustness",
}
SWEPT = (
    "The diamond is the verdict: every attack, all {n} images. Elsewhere it is one weaker attack ({attack}, on {m} "
    "images), so the curve is there for its shape and is no headline. Whiskers are 95 % intervals."
)


def main_verdict(content: Content) -> Mapping[str, Any] | None:
    """Of the first file that was attacked; else of the first about which anything is said."""
    said = [artefact["verdict"] for artefact in content["artefacts"] or [] if artefact["verdict"]]
    return next((verdict for verdict in said if verdict["robust"]), next(iter(said), None))


def artefacts(content: Content) -> list[Element]:
    """Each file that ships; with several, an overview first."""
    made = content["artefacts"]
    if not made:
        return [element("p", "No artefact was made.")]
    found: list[Element] = []
    if len(made) > 1:
        found.append(_overview(made))
    for artefact in made:
        told = artefact["verdict"] is not None and artefact["verdict"] is main_verdict(content)
        found += _artefact(artefact, content["teacher"] or {}, titled=len(made) > 1, told=told)
    return found


def _overview(made: list[Mapping[str, Any]]) -> Element:
    rows = []
    for artefact in made:
        verdict, latency = artefact["verdict"] or {}, artefact["latency"] or {}
        rate = verdict.get("robust")
        rows.append(
            (
                (artefact["path"], f"{artefact['format']}, {artefact['precision']}"),
                decision(verdict.get("decision") or "not checked"),
                (percent(rate["value"]), interval(rate)) if rate else "not known",
                amount(latency.get("p50_ms"), "ms"),
                amount(artefact["bytes"], "bytes"),
            )
        )
    head = ("File", "Verdict", "Robust accuracy", "Latency, median", "Size")
    return table(head, rows, label="The files that ship")


def _artefact(artefact: Mapping[str, Any], teacher: Mapping[str, Any], *, titled: bool, told: bool) -> list[Element]:
    """One file; `told` says that the top of the page gives the reasons of its verdict."""
    found = [element("h3", artefact["path"])] if titled else []
    verdict = artefact["verdict"]
    if verdict is None:
        found.append(element("p", "This file was not attacked: nothing is claimed about it.", class_="missing"))
    else:
        found += _verdict(verdict, teacher, reasons=not told)
    found += [
        element("h3", "The file" if not titled else f"About {artefact['path']}"),
        element(
            "p",
            element("code", artefact["path"]),
            f": {artefact['format']}, {artefact['precision']}, {amount(artefact['bytes'], 'bytes')} "
            f"({artefact['bytes']:,} bytes), sha256 ",
            element("code", artefact["sha256"]),
            ".",
        ),
        element("p", _timed(artefact["latency"])),
    ]
    if artefact["built"]:
        found.append(facts(flat(artefact["built"])))
    return found


def _timed(latency: Mapping[str, Any] | None) -> str:
    if latency is None:
        return "Its latency was not measured."
    steady = {True: "timing was stable", False: "timing was NOT stable", None: "stability not known"}
    runs = f", {latency['runs']:,} runs" if latency["runs"] else ""
    where = ", ".join(part for part in (latency["runtime"], latency["provider"]) if part) or "an unnamed runtime"
    threads = "not known" if latency["threads"] is None else latency["threads"]
    return (
        f"One image takes {amount(latency['p50_ms'], 'ms')} (median; 95th percentile "
        f"{amount(latency['p95_ms'], 'ms')}{runs}) on {where}, threads: {threads}; {steady[latency['stable']]}."
    )


def _verdict(verdict: Mapping[str, Any], teacher: Mapping[str, Any], *, reasons: bool) -> list[Element]:
    said = element("p", decision(verdict["decision"]), f" {EXPLAINED[verdict['decision']]}. {_terms(verdict)}.")
    found = [said]
    if reasons and verdict["reasons"]:
        found.append(element("ul", *(element("li", reason) for reason in verdict["reasons"])))
    if verdict["parity_fault"]:
        found.append(element("p", f"Parity failed: {verdict['parity_fault']}.", class_="failed"))
    if verdict["flags"]:
        box = element("div", element("p", element("strong", "Flags raised"), ", signs that an attack was misled:"))
        box.set("class", "failed")
        box.append(element("ul", *(element("li", flag) for flag in verdict["flags"])))
        found.append(box)
    drawn = [_rates_drawn(verdict, teacher)] if verdict["robust"] or verdict["clean"] else []
    if verdict["eps_sweep"]:
        drawn.append(_sweep(verdict))
    if drawn:
        found.append(element("div", *drawn, class_="pair"))
        found.append(table(("Rate", "Value", "95 % interval"), _rates(verdict, teacher), label="Rates"))
    found += _attacks(verdict)
    if not verdict["flags"] and verdict["attacks"]:
        found.append(element("p", "No flag of masked gradients was raised."))
    return found


def _terms(verdict: Mapping[str, Any]) -> str:
    """On which terms the attacks ran, as far as the verdict says."""
    terms = [f"Threat {verdict['threat']}"]
    terms += [f"n = {verdict['n']} test images"] if verdict["n"] else []
    terms += [f"{name} {verdict[name]}" for name in ("level", "seed") if verdict[name] is not None]
    return ", ".join(terms)


def _known(verdict: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The networks that the artefact is held against, by name, those that have rates."""
    reference = verdict["reference"] or {**teacher, "loss": None}
    against = {"trained network": verdict["checkpoint"], "teacher": reference}
    return {name: other for name, other in against.items() if other and other.get("robust")}


def _rates_drawn(verdict: Mapping[str, Any], teacher: Mapping[str, Any]) -> Element:
    """Clean and robust accuracy with their intervals, the artefact's first."""
    networks = {"this file": verdict, **_known(verdict, teacher)}
    rows = []
    for kind, own in (("robust", "one"), ("clean", "two")):
        for name, network in networks.items():
            rate = network.get(kind)
            if rate:
                value, low, high = (100 * rate[key] for key in ("value", "low", "high"))
                colour = own if name == "this file" else "quiet"
                rows.append(Range(f"{kind}, {name}", value, low, high, percent(rate["value"]), colour))
    return ranges(rows, title="Accuracy on test images", unit="%", note="Whiskers are 95 % intervals.")


def _sweep(verdict: Mapping[str, Any]) -> Element:
    """Robust accuracy against epsilon; the verdict's own number stands out."""
    written = verdict["threat"].split(":")[1:2]
    scale, unit = (255, "ε, in 1/255") if written and written[0].endswith("/255") else (1, "ε, pixels in [0, 1]")
    curve = verdict["eps_sweep"]
    asked = epsilon_of(verdict["threat"])
    own = [point for point in curve if asked and math.isclose(point["epsilon"], asked, rel_tol=1e-6)]
    others = [point for point in curve if point not in own]
    attacks = [point for point in others if point["epsilon"]]

    def told(point: Mapping[str, Any]) -> str:
        return f"ε = {scale * point['epsilon']:.4g}: {percent(point['robust']['value'])} {interval(point['robust'])}, {point['attack']}"  # noqa: E501  # fmt: skip

    def series(label: str, found: list[Mapping[str, Any]], look: str, colour: str) -> Series:
        return Series(
            label,
            [(scale * point["epsilon"], 100 * point["robust"]["value"]) for point in found],
            look,
            colour,
            [told(point) for point in found],
            [(100 * point["robust"]["low"], 100 * point["robust"]["high"]) for point in found],
        )

    line = Series("", [(scale * point["epsilon"], 100 * point["robust"]["value"]) for point in curve], "line", "one")
    classes = verdict["classes"]
    note = SWEPT.format(
        n=verdict["n"],
        attack=attacks[0]["attack"] if attacks else "none was run",
        m=attacks[0]["robust"]["total"] if attacks else 0,
    )
    return chart(
        [line, series("", others, "whiskers", "one"), series("verdict", own, "star", "two")],
        title="Robust accuracy against epsilon",
        told="; ".join(told(point) for point in curve),
        x_label=unit,
        y_label="still right, %",
        y_range=(0, 100),
        level=(100 / classes, "guessing") if classes else None,
        note=note,
    )


def _rates(verdict: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Rows: the artefact's rates, those of the networks it is held against, and what it loses against each."""
    rows: list[tuple[Any, ...]] = [
        ("clean", *_rate(verdict["clean"])),
        (("robust", "worst case over every attack and source"), *_rate(verdict["robust"])),
        (("parity", "file and trained network agree"), *_rate(verdict["parity"])),
    ]
    for name, other in _known(verdict, teacher).items():
        rows += [(f"{name}, {kind}", *_rate(other[kind])) for kind in ("clean", "robust")]
        if other["loss"]:
            value, low, high = (f"{100 * other['loss'][key]:.1f}" for key in ("value", "low", "high"))
            label = (f"lost against the {name}", "robust accuracy, same images; above 0 this file is worse")
            rows.append((label, f"{value} points", f"[{low}, {high}]"))
    return rows


def _rate(rate: Mapping[str, Any] | None) -> tuple[str, str]:
    return percent(rate["value"] if rate else None), interval(rate)


def _attacks(verdict: Mapping[str, Any]) -> list[Element]:
    if not verdict["attacks"]:
        return [element("p", "No attack was run.", class_="missing")]
    rows = [
        (
            attack["name"],
            attack["source"],
            _rate(attack["robust"]),
            *(f"{attack[key]:,}" if attack[key] is not None else "not known" for key in ("forwards", "backwards")),
            duration(attack["seconds"]),
        )
        for attack in verdict["attacks"]
    ]
    head = ("Attack", "Made on", "Still right", "Forwards", "Backwards", "Time")
    note = (
        "Every attack's images are shown to the file, whatever they were made on; still right is after that attack and "
        "all above it. Forwards and backwards count images pushed through the network."
    )
    return [table(head, rows, label="Attacks"), element("p", note, class_="note")]
