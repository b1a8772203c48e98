"""report.json as one plain page: no script, nothing fetched, light or dark as the reader likes, narrow or wide.

A section that the run did not reach is still there and says so.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, tostring

from rcnas_edge.report_drawing import element
from rcnas_edge.report_sections import SECTIONS, Content
from rcnas_edge.report_words import amount, interval, percent, share

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The page may fetch nothing, whatever a name in it contains."""

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1d2126; --faint: #5d6672; --line: #d5dae0; --panel: #f4f6f8;
  --one: #1f5fbf; --two: #b8480b; --good: #18713a; --bad: #b3261e; --unsure: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e4e7ea; --faint: #9aa4af; --line: #363d45;
  --panel: #1d2226; --one: #7cb0ff; --two: #ff9d5c; --good: #6fd391; --bad: #ff8f87; --unsure: #f0b94d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 4rem; max-width: 56rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; font-variant-numeric: tabular-nums; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { margin: .4rem 0; max-width: 46rem; }
a { color: var(--one); }
.note, .axis, figcaption, dt, .legend, .missing { color: var(--faint); }
.note, .legend, figcaption { font-size: .875rem; }
.missing, .failed { padding: .5rem .8rem; border-left: 4px solid var(--line); background: var(--panel); }
.failed { border-color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(3, 1fr); gap: .6rem; margin: 1rem 0; }
.tiles div { background: var(--panel); padding: .6rem .8rem; border-radius: .4rem; }
.tiles dt { font-size: .8rem; } .tiles dd { margin: 0; font-size: 1.25rem; font-weight: 600; line-height: 1.3; }
.tiles small { display: block; font-size: .8rem; font-weight: 400; color: var(--faint); }
.good { color: var(--good); } .bad { color: var(--bad); } .unsure { color: var(--unsure); }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; font-size: .925rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; } thead th { font-size: .8rem; color: var(--faint); font-weight: 400; }
.pairs th { width: 28%; } .pairs th, .pairs td, code, li { overflow-wrap: anywhere; }
td small, th small { display: block; font-weight: 400; color: var(--faint); font-size: .8rem; }
code { font: .85em ui-monospace, monospace; }
figure { margin: .8rem 0; max-width: 36rem; } figcaption { margin-bottom: .3rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 0 1.5rem; }
svg { display: block; width: 100%; height: auto; } .legend svg { display: inline-block; width: 18px; height: 14px;
  vertical-align: -2px; margin-right: .35rem; } .legend span { display: inline-block; margin-right: 1.1rem; }
.axis { font-size: 11px; fill: var(--faint); } .strong { fill: var(--ink); } .end { text-anchor: end; }
.middle { text-anchor: middle; } .grid { stroke: var(--line); fill: none; }
.marker { stroke: var(--faint); stroke-dasharray: 4 3; fill: none; }
.one { --colour: var(--one); } .two { --colour: var(--two); } .quiet { --colour: var(--faint); }
.curve { fill: none; stroke: var(--colour); stroke-width: 2; } .dot { fill: var(--colour); fill-opacity: .65; }
.ring { fill: none; stroke: var(--colour); } .star { fill: var(--paper); stroke: var(--colour); stroke-width: 2; }
.block { stroke: var(--ink); stroke-width: .6; } .block-0 { fill: var(--one); } .block-1 { fill: var(--two); }
.block-2 { fill: var(--faint); } .block-3 { fill: var(--paper); }
@media (max-width: 40rem) { .tiles { grid-template-columns: repeat(2, 1fr); } .pairs th { width: 42%; }
  th, td { padding-right: .5rem; } .cards thead { display: none; } .cards tr { display: block; padding: .5rem 0;
  border-bottom: 1px solid var(--line); } .cards th, .cards td { display: block; border: 0; padding: .1rem 0; }
  .cards td { display: grid; grid-template-columns: 7.5rem 1fr; } .cards td::before { content: attr(data-label);
  color: var(--faint); font-size: .8rem; } .cards td > * { grid-column: 2; } .cards td:empty { display: none; } }
@media print { body { max-width: none; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""


def page(content: Content) -> str:
    """The page for the content of report.json (as `report` returns it), as HTML text."""
    name = (content["architecture"] or {}).get("name") or "no student"
    title = f"{name}: rcnas-edge report"
    teacher = (content["teacher"] or {}).get("name")
    origin = element("p", f"Made from the teacher {teacher}. " if teacher else "", class_="note")
    origin.extend([element("span", "The same values for programs: "), element("a", "report.json", href="report.json")])
    body = element("body", element("h1", name), origin)
    if content["failed"]:
        body.append(element("p", element("strong", "This run did not finish: "), content["failed"], class_="failed"))
    body.append(_summary(content))
    for heading, key, section in SECTIONS:
        body.append(element("h2", heading, id=key))
        body.extend(section(content) if content[key] is not None else [_absent(content)])
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", STYLE),
    )
    html = tostring(element("html", head, body, lang="en"), encoding="unicode", method="html")
    return f"<!doctype html>\n{html}\n"


def _absent(content: Content) -> Element:
    reason = f"the run ended before it ({content['failed']})" if content["failed"] else "this stage has not been run"
    return element("p", f"Not there: {reason}.", class_="missing")


def _summary(content: Content) -> Element:
    tiles = element("dl", class_="tiles")

    def tile(label: str, value: str, small: str = "", colour: str = "") -> None:
        parts = [value, element("small", small)] if small else [value]
        tiles.append(element("div", element("dt", label), element("dd", *parts, class_=colour or "plain")))

    verdict = next((entry["verdict"] for entry in content["artefacts"] or [] if entry["verdict"]), None)
    if verdict:
        colour = {"robust": "good", "not robust": "bad"}.get(verdict["decision"], "unsure")
        tile("Verdict", verdict["decision"], f"under {verdict['threat']}", colour)
        if verdict["robust"]:
            tile("Robust accuracy", percent(verdict["robust"]["value"]), interval(verdict["robust"]))
    else:
        tile("Verdict", "not checked", "no artefact was attacked", "unsure")
    teacher = content["teacher"] or {}
    if teacher.get("robust"):
        tile("The teacher's robust accuracy", percent(teacher["robust"]["value"]), interval(teacher["robust"]))
    target, cost = next(iter((content["cost"] or {}).items()), (None, None))
    if cost and cost["macs"] is not None:
        whole = ((teacher.get("cost") or {}).get(target) or {}).get("macs")
        flops = f"{amount(cost['flops'], 'FLOPs')}: 1 MAC = 2 FLOPs"
        tile("Computation", amount(cost["macs"], "MACs"), "; ".join(filter(None, (share(cost["macs"], whole), flops))))
    timed = next((entry["latency"] for entry in content["artefacts"] or [] if entry["latency"]), None)
    if timed:
        predicted = f"predicted {amount(cost['latency'], 'ms')}" if cost and cost["latency"] is not None else ""
        tile("Latency, measured", amount(timed["p50_ms"], "ms"), predicted)
    if content["budgets"]:
        met = [row["met"] for row in content["budgets"]]
        unknown = f"{met.count(None)} not known" if None in met else ""
        colour = "bad" if False in met else "unsure" if unknown else "good"
        tile("Budgets met", f"{met.count(True)} of {len(met)}", unknown, colour)
    return tiles
