"""report.json as one page: what was found in one sentence, the key figures, then every section.

No script, nothing fetched, light or dark as the reader likes, narrow or wide. A section that the run did not reach is
named and said to be missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, tostring

from rcnas_edge.report.head import header
from rcnas_edge.report.markup import element
from rcnas_edge.report.sections import SECTIONS, Content
from rcnas_edge.report.style import STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The page may fetch nothing, whatever a name in it contains."""


def document(title: str, *body: Element) -> str:
    """A whole page as HTML text."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", STYLE),
    )
    html = tostring(element("html", head, element("body", *body), lang="en"), encoding="unicode", method="html")
    return f"<!doctype html>\n{html}\n"


def page(content: Content) -> str:
    """The page for the content of report.json (as `report` returns it), as HTML text."""
    name = (content["architecture"] or {}).get("name") or "no student"
    links = element("nav", *(element("a", heading, href=f"#{key}") for heading, key, _ in SECTIONS))
    links.append(element("a", "report.json", href="report.json", title="the same values for programs"))
    main = element("main")
    absent = [(heading, key) for heading, key, _ in SECTIONS if content[key] is None]
    for heading, key, section in SECTIONS:
        if content[key] is not None:
            main.append(element("section", element("h2", heading), *section(content), id=key))
        elif key == absent[0][1]:
            main.append(_absent(absent, failed=bool(content["failed"])))
    return document(f"{name}: rcnas-edge report", header(content), links, main)


def _absent(sections: Sequence[tuple[str, str]], *, failed: bool) -> Element:
    """What the run has nothing to say of, in one section."""
    reason = "the run ended before it" if failed else "this stage has not been run"
    rows = (element("li", element("strong", heading), f" Not there: {reason}.", id=key) for heading, key in sections)
    return element("section", element("h2", "What is not there"), element("ul", *rows, class_="missing"))
