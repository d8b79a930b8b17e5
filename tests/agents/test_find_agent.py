"""Naming an agent on the command line."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from trio_bridge import agents
from trio_bridge.agents import find_agent
from trio_bridge.agents import local as local_package
from trio_bridge.agents.echo import echo
from trio_bridge.errors import SettingsError

LOCAL = local_package.local

MODULE = """\
import functools

async def good(meeting): pass
def plain(meeting): pass
number = 7

class Callable_:
    async def __call__(self, meeting): pass
    async def method(self, meeting): pass

instance = Callable_()
partial = functools.partial(good)
"""


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of the user's, on the path as ``python -m`` puts it there."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine_ok.py").write_text(MODULE)
    for name in [name for name in sys.modules if name.startswith("mine_")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_the_built_in_agents_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_package, "available", lambda: None)
    assert find_agent("echo") == agents.FoundAgent("echo", echo)
    assert find_agent("local").agent is LOCAL
    assert find_agent(None) == agents.FoundAgent("local", LOCAL)


def test_without_its_parts_local_gives_way_to_echo_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local_package, "available", lambda: "parts missing: pip install x")
    found = find_agent(None)
    assert (found.name, found.agent) == ("echo", echo)
    assert "parts missing: pip install x" in found.note
    with pytest.raises(SettingsError, match="pip install x"):
        find_agent("local")


def test_available_names_what_is_missing_and_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_package, "find_spec", lambda name: object())
    assert local_package.available() is None
    monkeypatch.setattr(local_package, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert local_package.available() == (
        'pocketsphinx and espeakng-loader not installed: pip install "trio_bridge[local]"'
    )
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/espeak-ng")
    assert str(local_package.available()).startswith("pocketsphinx not installed")


@pytest.mark.parametrize("attribute", ["good", "instance", "instance.method", "partial"])
def test_any_coroutine_function_will_do(workdir: Path, attribute: str) -> None:
    found = find_agent(f"mine_ok:{attribute}")
    assert found.name == f"mine_ok:{attribute}"
    assert callable(found.agent)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "expected echo, local or package.module:function"),
        ("parrot", "expected echo, local or package.module:function"),
        (":f", "expected echo, local or"),
        ("mine_ok:", "expected echo, local or"),
        ("mine_absent:f", "start from its directory or install it"),
        ("mine_absent.sub:f", "start from its directory or install it"),
        ("mine_ok.sub:f", "cannot import mine_ok.sub"),
        ("mine_ok:absent", "mine_ok has no absent; it has good"),
        ("mine_many:f", "mine_many has no f; it has a0, a1, a2, a3, a4, ..."),
        ("mine_none:f", "mine_none has no f; write async def f(meeting)"),
        ("mine_ok.py:good", "write it without .py: mine_ok:good"),
        ("./bots/mine_ok.py:good", "write it without .py: bots.mine_ok:good"),
        ("mine_ok:plain", "is not a coroutine function: write async def plain"),
        ("mine_ok:number", "is not a coroutine function"),
        ("mine_ok:instance.absent", "has no instance.absent"),
        ("mine_needs:f", "it needs no_such_package_here"),
        ("mine_broken:f", "line 2: SyntaxError"),
        ("mine_raising:f", "line 1: ZeroDivisionError: division by zero"),
        (".:f", "importing"),
    ],
)
def test_what_cannot_be_used_is_one_line_with_the_mend(
    workdir: Path, name: str, text: str
) -> None:
    (workdir / "mine_needs.py").write_text("import no_such_package_here\n")
    (workdir / "mine_broken.py").write_text("x = 1\ndef f(:\n")
    (workdir / "mine_raising.py").write_text("1 / 0\n")
    many = "".join(f"async def a{n}(meeting): pass\n" for n in range(6))
    (workdir / "mine_many.py").write_text("from mine_ok import good\n" + many)
    (workdir / "mine_none.py").write_text(
        "from mine_ok import good\nasync def _hidden(meeting): pass\n"
    )
    with pytest.raises(SettingsError) as caught:
        find_agent(name)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
