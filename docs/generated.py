"""A hook of mkdocs: the tables that are read from the code when the pages are built, so that they cannot go stale.

A page asks for one by a line `<!-- generated: NAME -->`, NAME a key of `TABLES`. Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import click

from rcnas_edge.cli import cli
from rcnas_edge.report.schema import fields as report_fields
from rcnas_edge.setting import LIMITS, TaskSetting, flag
from rcnas_edge.train.recipe import RECIPES

MARK = re.compile(r"^<!-- generated: (.*?) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **given: Any) -> str:
    """Every mark of a page replaced by its table; KeyError for a name that is not in `TABLES`."""
    return MARK.sub(lambda mark: "\n".join(TABLES[mark[1]]()), markdown)


def table(columns: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    """The lines of a Markdown table."""
    yield from ("", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns))
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def commands(group: click.Group = cli, way: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that call it, groups before what they hold."""
    for name, command in group.commands.items():
        yield (*way, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*way, name))


def command_line() -> Iterator[str]:
    """A section per command: what it does, how it is called, its flags."""
    for way, command in commands():
        context = click.Context(command, info_name=" ".join(("rcnas-edge", *way)))
        usage = command.get_usage(context).removeprefix("Usage: ")
        yield from ("", f"## {' '.join(way)}", "", *_paragraphs(command.help or ""), "")
        yield from ("```text", re.sub(r"\s+", " ", usage), "```", "")
        options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
        if options:
            yield from table(("flag", "meaning"), ((_flag(one), _meaning(one)) for one in options))


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        yield from (re.sub(r"\s+", " ", paragraph), "")


def _flag(option: click.Option) -> str:
    names = [*option.opts, *option.secondary_opts]
    kind = "" if option.is_flag else f" {option.make_metavar(click.Context(cli))}"
    return ", ".join(f"`{name}{kind}`" for name in names)


def _meaning(option: click.Option) -> str:
    told = [option.help or ""]
    told += [f"Default `{option.default}`."] * (option.show_default is True)
    told += ["Required."] * option.required + ["Several times if need be."] * option.multiple
    return " ".join(told)


def task_keys() -> Iterator[str]:
    """Every key of a task file: its type, its default, and what the flag of that name means."""
    helps = {one.name: one.help or "" for one in cli.commands["compress"].params if isinstance(one, click.Option)}
    rows = []
    for field in fields(TaskSetting):
        kind = str(field.type).split(" ")[0]
        open_ended = "by the task" if field.default is None else f"`{field.default}`"
        if field.name in LIMITS:
            open_ended = "no limit"
        rows.append((f"`{field.name}`", {"str": "text", "int": "integer", "float": "number"}[kind], open_ended,
                     f"`{flag(field.name)}`", helps[field.name]))  # fmt: skip
    return table(("key", "type", "default", "flag", "meaning"), iter(rows))


def recipes() -> Iterator[str]:
    """Every training recipe with what it does and where it is from."""
    rows = ((f"`{name}`", one.words(), one.source) for name, one in RECIPES.items())
    return table(("recipe", "what it does", "source"), rows)


def report() -> Iterator[str]:
    """Every field of report.json."""
    rows = ((f"`{place}`", kind, meaning) for place, kind, meaning in report_fields())
    return table(("field", "kind", "meaning"), rows)


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "command line": command_line,
    "task keys": task_keys,
    "recipes": recipes,
    "report fields": report,
}
