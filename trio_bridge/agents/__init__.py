"""The agents that come with the bridge, and the way to name one of your own."""

from __future__ import annotations

import importlib
import inspect
import traceback
from typing import Any, cast

import attrs

from trio_bridge.agents.echo import echo as echo_agent  # `echo` is the module's name here
from trio_bridge.errors import SettingsError
from trio_bridge.meeting import Agent

BUILT_IN = ("echo", "local")

MOST_OFFERED = 5
"""Names in the answer to a mistyped one: it stays one line."""


@attrs.frozen
class FoundAgent:
    """An agent ready to run."""

    name: str
    agent: Agent
    note: str = ""
    """Why it is not the one that would be preferred; empty when it is."""


def find_agent(name: str | None) -> FoundAgent:
    """The agent of that name: one of `BUILT_IN`, or ``package.module:function``.

    None means `local` where its parts are installed, else `echo` with a note. An agent's
    module is imported here, with everything that this runs.

    Raises:
        SettingsError: there is no such agent, or it cannot be used; one line with the mend.
    """
    if name == "echo":
        return FoundAgent("echo", echo_agent)
    if name in (None, "local"):
        from trio_bridge.agents import local  # a twentieth of the start; others need not wait

        missing = local.available()
        if missing is None:
            return FoundAgent("local", local.local)
        if name is not None:
            raise SettingsError(f"agent local: {missing}")
        return FoundAgent("echo", echo_agent, f"agent local is not available: {missing}")
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        known = ", ".join(BUILT_IN)
        raise SettingsError(f"agent {name!r}: expected {known} or package.module:function")
    return FoundAgent(name, _imported(name, module_name, attribute))


def _imported(name: str, module_name: str, attribute: str) -> Agent:
    if module_name.endswith(".py"):
        module_name = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise SettingsError(f"agent {name!r}: write it without .py: {module_name}:{attribute}")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(missing + "."):
            mend = "start from its directory or install it"
        else:
            mend = f"it needs {missing}, which is not installed"
        raise SettingsError(f"agent {name!r}: cannot import {module_name}: {mend}") from error
    except Exception as error:  # the module is somebody's program: anything can come
        raise SettingsError(
            f"agent {name!r}: importing {module_name} failed{_where(error)}: {_brief(error)}"
        ) from error
    module = found
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise SettingsError(
                f"agent {name!r}: {module_name} has no {attribute}; {_offer(module, attribute)}"
            )
        found = getattr(found, part)
    # An object may be an agent by its ``async def __call__``, which callable() cannot tell.
    if not any(map(inspect.iscoroutinefunction, (found, getattr(found, "__call__", None)))):  # noqa: B004
        raise SettingsError(
            f"agent {name!r} is not a coroutine function: write async def {attribute}(meeting)"
        )
    return cast(Agent, found)


def _offer(module: Any, attribute: str) -> str:
    """What could have been meant: the module's own public coroutine functions."""
    own = [
        name
        for name, value in vars(module).items()
        if inspect.iscoroutinefunction(value)
        and not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
    ]
    if not own:
        return f"write async def {attribute}(meeting)"
    return "it has " + ", ".join(own[:MOST_OFFERED]) + (", ..." if own[MOST_OFFERED:] else "")


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError):
        return f" in {error.filename} line {error.lineno}"
    return f" in {frames[-1].filename} line {frames[-1].lineno}" if frames else ""


def _brief(error: Exception) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return " ".join(f"{type(error).__name__}: {text}".split())
