"""The import rules of the package, as a test: a layer may import itself and what is below."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "trio_bridge"
LAYERS = (
    {"errors", "log", "admission", "watchdog", "heap", "spool", "bell"} | {"loop_turns"},
    {"clock"},
    {"wire", "audio", "setting", "limits", "config", "edge", "routes", "tokens", "tls"},
    {"door", "pulse", "lanes", "given", "turns", "pacing", "bargein", "intake", "attendance"}
    | {"unpack", "address"},
    {"pump", "ears", "ledger"},
    {"meeting", "stretch"},
    {"inbox", "inflow"},
    {"budget"},
    {"agents", "session"},
    {"registry"},
    {"channel"},
    {"server"},
    {"fleet"},
    {"simulator"},
    {"demo"},
    {"cli"},
    {"__init__", "__main__"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
STDLIB = set(sys.stdlib_module_names)

PURE = {"errors", "wire", "audio", "config", "pacing", "intake", "ledger", "routes", "bargein"}
PURE |= {"setting", "limits", "tokens", "admission", "given", "unpack", "spool", "heap"}
"""Sans-I/O: they never import trio."""
PURE_MAY_USE = {"attrs", "numpy", "soxr", "trio_bridge"} | STDLIB
MAY_ONLY_USE = {
    "wire": {"wire", "errors"},
    "audio": {"audio", "errors", "heap"},
    "config": {"config", "setting", "limits", "errors"},
    "tokens": {"tokens", "errors"},
    "edge": {"edge", "errors", "log", "clock", "bell", "loop_turns"},
    "agents": {"agents", "audio", "errors", "meeting"},
    "simulator": {"simulator", "audio", "errors", "wire"},
}
"""Walls: the simulator must not share a bug with the server, agents speak in speech and text
and not in a vendor's JSON, and the edge knows nothing of meetings."""
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST_MODULE = 400


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
            assert not node.level, "imports say the whole name"
    return found


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards_and_stay_behind_their_walls(path: Path) -> None:
    part = part_of(path)
    for name in imports(path):
        top, *rest = name.split(".")
        if top != "trio_bridge":
            if part in PURE:
                assert top in PURE_MAY_USE, f"{part} is sans-I/O and may not import {top}"
            continue
        used = rest[0] if rest else "__init__"
        # Importing one's own agents is what `serve` without one does, when it is called.
        if (part, used) != ("server", "agents"):
            assert RANK[used] <= RANK[part], f"{part} may not import {used}"
        if part in MAY_ONLY_USE:
            assert used in MAY_ONLY_USE[part], f"{part} may not import {used}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_is_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_MODULE


def test_every_part_has_its_layer() -> None:
    assert {part_of(path) for path in MODULES} == set(RANK)


def test_the_public_names_are_sorted_and_complete() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    names = __import__("trio_bridge").__all__
    assert names == sorted(names)
    assert set(names) == imported
