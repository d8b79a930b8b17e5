"""What a start has to load: its time is mostly that, and this can be told without a clock.

Each case is a process of its own, because this one has loaded the test tools.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CORE = {"trio", "trio_websocket", "h11", "numpy", "soxr", "attr", "attrs"}
THEIRS = {"wsproto", "outcome", "sortedcontainers", "sniffio", "idna"}
"""What the core dependencies bring along."""
SERVER = "import trio_bridge.server"
NAMED = "from trio_bridge.agents import find_agent; find_agent({!r})"
SETTINGS = "from trio_bridge.config import load_settings; load_settings({}, {})"


def loaded_by(code: str) -> set[str]:
    """The modules that ``code`` adds to those of an empty program."""
    program = (
        "import sys; before = set(sys.modules)\n"
        f"{code}\n"
        "import json; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[1],
        timeout=30,
    )
    return set(json.loads(ended.stdout))


def tops(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


@pytest.fixture(scope="module")
def server_modules() -> set[str]:
    return loaded_by(f"{SERVER}\n{SETTINGS}\n{NAMED.format('echo')}")


def test_a_server_loads_no_package_but_the_core_dependencies(server_modules: set[str]) -> None:
    others = tops(server_modules) - set(sys.stdlib_module_names) - {"trio_bridge"}
    assert others <= CORE | THEIRS


def test_a_server_loads_no_part_of_ours_that_it_does_not_run(server_modules: set[str]) -> None:
    assert "trio_bridge.session" in server_modules
    for part in ("simulator", "demo", "agents.local"):
        assert f"trio_bridge.{part}" not in server_modules


@pytest.mark.parametrize(
    "module", ["asyncio", "multiprocessing", "unittest", "tomllib", "difflib", "urllib.request"]
)
def test_a_server_loads_nothing_heavy_that_it_does_not_use(
    server_modules: set[str], module: str
) -> None:
    assert module not in server_modules


def test_an_agent_of_ones_own_loads_none_of_ours() -> None:
    assert "trio_bridge.agents" not in loaded_by("import trio_bridge")


def test_the_local_agent_is_loaded_without_the_packages_its_children_use() -> None:
    modules = loaded_by("import trio_bridge.agents.local")
    assert not tops(modules) & {"pocketsphinx", "espeakng_loader", "cffi", "sounddevice"}
