"""A program for a board, run.py of a bundle or measure.py of a kit: one file, of modules that stand alone (`board`).

Of a module that another one imports from, only what is named there goes in, with what that needs in turn; so the timing
protocol of the package is in both word for word, and nothing is written twice.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from rcnas_edge import __version__

INSTALLED = ("numpy", "onnxruntime")
OURS = "rcnas_edge."
Source = tuple[str, str]
"""What an import names: a module and a name in it, or a module and nothing."""


@dataclass
class Part:
    """One module: its text, its statements by the names that they bind, and the names that are to go in."""

    name: str
    text: str
    statements: list[ast.stmt] = field(default_factory=list)
    bound: dict[str, ast.stmt] = field(default_factory=dict)
    ours: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Imported names, with the module of ours and the name there."""
    imports: dict[str, Source] = field(default_factory=dict)
    """Names imported from elsewhere; `typing` has those that only types need."""
    typing: dict[str, Source] = field(default_factory=dict)
    wanted: set[str] = field(default_factory=set)
    whole: bool = False
    """The module that is run: all of it goes in, its command line too."""


@cache
def program(module: str) -> str:
    """The text of a module of `board` that is run, as "run": all of it, and what it needs of the others."""
    parts: dict[str, Part] = {}
    entry = _part(f"board.{module}", parts)
    entry.whole = True
    for name in entry.bound:
        _want(entry, name, parts)
    order = _in_order(entry.name, parts, [])
    chosen = {part.name: [one for one in part.statements if _goes_in(part, one)] for part in order}
    _check_apart(order)
    used = {name for part in order for one in chosen[part.name] for name in _names(one)}
    imports = {source for part in order for name, source in part.imports.items() if name in used}
    typing = {source for part in order for name, source in part.typing.items() if name in used}
    opening = ast.get_docstring(ast.parse(entry.text), clean=False)
    blocks = [f'"""{opening}"""', f"# Made by rcnas-edge {__version__} (Apache-2.0) of its modules that stand alone."]
    blocks += ["from __future__ import annotations", "\n".join(_lines(imports | {("typing", "TYPE_CHECKING")}))]
    blocks += ["\n".join(["if TYPE_CHECKING:", *(f"    {line}" for line in _lines(typing))])]
    text = "\n\n".join(blocks) + "\n"
    for part in order:
        text += f"\n\n# {OURS}{part.name}\n\n" + "".join(_pieces(part, chosen[part.name]))
    return text.rstrip() + "\n"


def _part(name: str, parts: dict[str, Part]) -> Part:
    """A module, read."""
    if name in parts:
        return parts[name]
    text = resources.files("rcnas_edge").joinpath(f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
    part = parts[name] = Part(name, text)
    for one in ast.parse(text).body[1:]:  # without the docstring
        if isinstance(one, (ast.Import, ast.ImportFrom)):
            _imported(part, one, part.imports)
        elif isinstance(one, ast.If) and ast.unparse(one.test) == "TYPE_CHECKING":
            for line in one.body:
                _imported(part, line, part.typing)
        else:
            part.statements.append(one)
            part.bound |= dict.fromkeys(_binds(one), one)
    return part


def _imported(part: Part, one: ast.stmt, into: dict[str, Source]) -> None:
    if isinstance(one, ast.Import):
        into.update({alias.asname or alias.name: (ast.unparse(alias), "") for alias in one.names})
    elif isinstance(one, ast.ImportFrom) and one.module:
        for alias in one.names:
            if one.module.startswith(OURS):
                part.ours[alias.name] = (one.module.removeprefix(OURS), alias.name)
            elif one.module != "__future__":
                into[alias.name] = (one.module, alias.name)


def _lines(sources: set[Source]) -> list[str]:
    """Imports in the usual order: what is installed last; modules, then names of modules."""
    modules = sorted(module for module, name in sources if not name)
    named: dict[str, list[str]] = {}
    for module, name in sorted(source for source in sources if source[1]):
        named.setdefault(module, []).append(name)
    lines = [f"import {module}" for module in modules if module.split()[0] not in INSTALLED]
    lines += [f"from {module} import {', '.join(names)}" for module, names in named.items()]
    return lines + [f"import {module}" for module in modules if module.split()[0] in INSTALLED]


def _binds(one: ast.stmt) -> list[str]:
    if isinstance(one, (ast.FunctionDef, ast.ClassDef)):
        return [one.name]
    targets = one.targets if isinstance(one, ast.Assign) else [one.target] if isinstance(one, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def _names(one: ast.stmt) -> set[str]:
    return {node.id for node in ast.walk(one) if isinstance(node, ast.Name)}


def _want(part: Part, name: str, parts: dict[str, Part]) -> None:
    """Take in a name of a module, and all that its definition needs."""
    if name in part.ours:
        module, there = part.ours[name]
        _want(_part(module, parts), there, parts)
    elif name in part.bound and name not in part.wanted:
        part.wanted.add(name)
        for needed in _names(part.bound[name]):
            _want(part, needed, parts)


def _in_order(name: str, parts: dict[str, Part], found: list[Part]) -> list[Part]:
    """The modules that something is taken of, each after those that it needs."""
    part = parts[name]
    if part not in found:
        for module in dict.fromkeys(module for module, _ in part.ours.values() if module in parts):
            if parts[module] not in found and module != name:
                _in_order(module, parts, found)
        found.append(part)
    return found


def _goes_in(part: Part, one: ast.stmt) -> bool:
    bound = _binds(one)
    if bound:
        return not part.wanted.isdisjoint(bound)
    if isinstance(one, ast.Expr):  # the sentence below a constant goes with it
        before = part.statements[part.statements.index(one) - 1] if part.statements.index(one) else one
        return before is not one and _goes_in(part, before)
    return part.whole


def _check_apart(order: list[Part]) -> None:
    """ValueError if two modules bind one name, of which the second would replace the first."""
    owner: dict[str, str] = {}
    for part in order:
        for name in sorted(part.wanted):
            if name in owner:
                raise ValueError(f"a program is one file, {name} is defined in {owner[name]} and in {part.name}")
            owner[name] = part.name


def _pieces(part: Part, chosen: list[ast.stmt]) -> list[str]:
    """The text of statements, as it stands in the module."""
    lines, found, apart = part.text.splitlines(keepends=True), [], False
    for one in chosen:
        first = min([one.lineno, *(decorator.lineno for decorator in getattr(one, "decorator_list", ()))])
        large = isinstance(one, (ast.FunctionDef, ast.ClassDef, ast.If))
        found.append(("\n\n" if large or apart else "") + "".join(lines[first - 1 : one.end_lineno]))
        apart = large
    return found
