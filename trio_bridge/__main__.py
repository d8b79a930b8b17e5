"""The command line: the server itself, ``simulate`` and ``demo``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NoReturn

import trio

from trio_bridge.agents import FoundAgent, find_agent
from trio_bridge.config import Settings, add_flags, load_settings
from trio_bridge.errors import BridgeError, SettingsError
from trio_bridge.log import set_up_logging
from trio_bridge.server import Address, Server

USAGE_EXIT = 2
"""What was asked for cannot be done; one line on stderr says why and what to do."""

INTERRUPTED_EXIT = 130
"""Ctrl-C before there was anything to end: the shell's number for it."""

EPILOG = """commands:
  simulate ws://HOST:PORT   a MeetStream bot that tests any server (simulate --help)
  demo                      a short conversation on this machine   (demo --help)

Every flag is also an environment variable (--lead-ms: TRIO_BRIDGE_LEAD_MS) and a key of the
TOML file that --config names (lead_ms = 300); a flag wins over a variable, that over the file.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` names; returns the exit status. Ctrl-C is a clean end."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    status = USAGE_EXIT
    commands: dict[str, Callable[[list[str]], int]] = {"simulate": _simulate, "demo": _demo}
    command = commands.get(arguments[0]) if arguments else None
    try:
        if command is not None:
            return command(arguments[1:])
        return _serve(arguments)
    except* BridgeError as failures:
        leaf: BaseException = failures
        while isinstance(leaf, BaseExceptionGroup):
            leaf = leaf.exceptions[0]
        sys.stderr.write(f"trio_bridge: {leaf}\n")
    except* KeyboardInterrupt:
        sys.stderr.write("trio_bridge: interrupted\n")
        status = INTERRUPTED_EXIT
    return status


class _Parser(argparse.ArgumentParser):
    """One line about what is wrong, and not the usage of thirty flags before it."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}; see --help")


def _simulate(arguments: list[str]) -> int:
    from trio_bridge.simulator.cli import main as simulate  # the server need not load it

    return simulate(arguments)


def _demo(arguments: list[str]) -> int:
    from trio_bridge.demo import main as demo

    return demo(arguments)


def _serve(arguments: list[str]) -> int:
    parser = _Parser(
        prog="python -m trio_bridge",
        description="Bridge MeetStream meeting bots to an AI agent: bots connect to "
        "ws://HOST:PORT/bridge and /bridge/audio.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser)
    settings = load_settings(vars(parser.parse_args(arguments)), os.environ)
    set_up_logging(sys.stderr, settings.log_level, settings.log_format)
    found = find_agent(settings.agent)
    trio.run(_run_until_told, found, settings)
    return 0


async def _run_until_told(found: FoundAgent, settings: Settings) -> None:
    """Serve until SIGTERM (drain) or Ctrl-C (at once); a second signal does not wait."""
    server = Server(found.agent, settings)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            address: Address = await nursery.start(server.run)
            note = f" ({found.note})" if found.note else ""
            sys.stdout.write(f"trio_bridge listening on {address.url}\n")
            sys.stdout.write(f"agent: {found.name}{note}\n")
            sys.stdout.flush()
            nursery.start_soon(_obey, signals, server, settings.drain_s)
            await server.stopped.wait()
            nursery.cancel_scope.cancel()


async def _obey(signals: AsyncIterator[int], server: Server, drain_s: float) -> None:
    async for number in signals:
        server.stop(drain_s if number == signal.SIGTERM and not server.draining else 0.0)


if __name__ == "__main__":
    raise SystemExit(main())
