"""What the README shows is what there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from trio_bridge.config import settings_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_settings_table_is_the_settings() -> None:
    assert settings_table() in README, "update it from trio_bridge.config.settings_table()"
    assert README.count("| flag | default |") == settings_table().count("| flag | default |")


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_a_python_block_stands_in_the_examples(block: str) -> None:
    shown = {ast.unparse(node) for node in ast.parse(block).body}
    examples = {
        ast.unparse(node)
        for path in (ROOT / "examples").glob("*.py")
        for node in ast.parse(path.read_text()).body
    }
    assert shown <= examples


def test_an_agent_takes_ten_lines() -> None:
    block = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    agent = next(
        node for node in ast.parse(block).body if isinstance(node, ast.AsyncFunctionDef)
    )
    assert agent.end_lineno is not None
    assert agent.end_lineno - agent.lineno < 10
