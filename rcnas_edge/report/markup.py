"""The one function that makes every element of a page, escaped by construction."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def element(tag: str, *children: Element | str, **attributes: object) -> Element:
    """An element with its children; `class_` is class, an underscore in an attribute is a hyphen.

    Text and attributes are escaped when the tree is written, never by hand.
    """
    made = Element(tag, {key.rstrip("_").replace("_", "-"): printable(str(value)) for key, value in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + printable(child)
        else:
            made.text = (made.text or "") + printable(child)
    return made


def printable(text: str) -> str:
    """The text with what no page may hold (control characters, lone surrogates) replaced."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
