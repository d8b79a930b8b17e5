"""The command line: the server itself, ``simulate`` and ``demo``, and `run` for one's own.

The only place that reads the environment, sets up logging and takes signals.
"""

from __future__ import annotations

import argparse
import functools
import gc
import logging
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import NoReturn, Protocol

import attrs
import trio

from trio_bridge.address import Address
from trio_bridge.audio.streams import make_streams_apart
from trio_bridge.config import ENV_PREFIX, Settings, add_flags, load_settings
from trio_bridge.edge import AudioClock
from trio_bridge.errors import BridgeError, HandshakeError, SettingsError
from trio_bridge.fleet.post import LIFELINE_VARIABLE
from trio_bridge.heap import keep_large_apart
from trio_bridge.log import set_up_logging
from trio_bridge.meeting import Agent
from trio_bridge.server import Server
from trio_bridge.tokens import BotToken, mint_token, read_ttl
from trio_bridge.wire.hello import encode_hello, parse_hello

log = logging.getLogger(__name__)

USAGE_EXIT = 2
"""What was asked for cannot be done; one line on stderr says why and what to do."""
INTERRUPTED_EXIT = 130
"""Ctrl-C before there was anything to end: the shell's number for it."""

STUCK_EXIT = 1
"""An agent would not stop and was left behind; the log says which."""
PATIENCE_S = 2.0
"""Beyond every deadline of the server's own."""

_AMBIGUOUS = re.compile(r"(ambiguous option: --[\w-]+)=.* could match", re.DOTALL)
"""Here argparse quotes ``--flag=value`` whole, and the value may be a secret."""
COLLECT_AFTER = 10_000
"""Objects made and not freed yet that start the cycle collector."""

COMMANDS = """commands:
  token BOT_ID --ttl 2h     a token for one bot, good so long      (token --help)
  simulate ws://HOST:PORT   a MeetStream bot that tests any server (simulate --help)
  demo                      a short conversation on this machine   (demo --help)

"""
EPILOG = """Every flag is also a variable (--lead-ms: TRIO_BRIDGE_LEAD_MS) and a key of the
TOML file that --config names (lead_ms = 300). A flag wins over a variable, that over the file.
Ctrl-C ends at once, SIGTERM after --drain-s; both tell every bot Close 1001. SIGHUP reads
--tls-cert and --tls-key anew and ends nothing, not even without them.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` names; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], int]] = {
        "simulate": _simulate,
        "demo": _demo,
        "token": _token,
    }
    command = commands.get(arguments[0]) if arguments else None
    if command is not None:
        return _guarded(lambda: command(arguments[1:]))
    usage = "[simulate | demo | token] [flags]"
    parser = _parser("python -m trio_bridge", COMMANDS + EPILOG, usage)
    return _guarded(lambda: _serve(parser, arguments, None))


def run(agent: Agent, argv: Sequence[str] | None = None) -> NoReturn:
    """A whole program around ``agent``: flags, environment, logs, signals, one-line errors.

    The last line of a script, as ``tb.run(agent)``: it takes the same flags as
    ``python -m trio_bridge`` and leaves the process with the same statuses.

    With ``--workers N`` it starts the script N times more, and each gets to this line again.

    Raises:
        SystemExit: always; 0 after a clean end.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser(None, EPILOG, "[flags]")
    raise SystemExit(_guarded(lambda: _serve(parser, arguments, agent)))


class _Parser(argparse.ArgumentParser):
    """One line about what is wrong, and not the usage of thirty flags before it."""

    def parse_args(self, arguments: Sequence[str]) -> argparse.Namespace:  # type: ignore[override]
        # Not what the unknown ones hold: it may be the secret behind a flag that has a typo.
        flags, unknown = self.parse_known_args(arguments)
        if unknown:
            names = [a.partition("=")[0] for a in unknown if a.startswith("--")]
            self.error(f"unknown flag {' '.join(names)}" if names else "a word without a flag")
        return flags

    def error(self, message: str) -> NoReturn:
        raise SettingsError(_AMBIGUOUS.sub(r"\1 could match", message) + "; see --help")


def _parser(prog: str | None, epilog: str, usage: str) -> _Parser:
    parser = _Parser(
        prog=prog,
        usage=f"%(prog)s {usage}",
        description="Bridge MeetStream meeting bots to an AI agent: bots connect to "
        "ws://HOST:PORT/bridge and /bridge/audio.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser)
    return parser


def _guarded(command: Callable[[], int]) -> int:
    """The status of ``command``; what it raises on purpose is one line on stderr."""
    status = USAGE_EXIT
    try:
        return command()
    except* BridgeError as failures:
        leaf: BaseException = failures
        while isinstance(leaf, BaseExceptionGroup):
            leaf = leaf.exceptions[0]
        sys.stderr.write(f"trio_bridge: {leaf}\n")
    except* KeyboardInterrupt:
        sys.stderr.write("trio_bridge: interrupted\n")
        status = INTERRUPTED_EXIT
    return status


def _simulate(arguments: list[str]) -> int:
    from trio_bridge.simulator.cli import main as simulate  # the server need not load it

    return simulate(arguments)


def _demo(arguments: list[str]) -> int:
    from trio_bridge.demo import main as demo

    return demo(arguments)


def _token(arguments: list[str]) -> int:
    """Write a token for one bot to stdout; the key is where the server finds it too."""
    parser = _Parser(
        prog="python -m trio_bridge token",
        usage="%(prog)s BOT_ID --ttl 2h [flags]",
        description="Make a token that lets one bot in until it expires: in the path as "
        "/t/TOKEN/bridge, as ?token= or as a bearer token, as often as it likes.",
        epilog="The key, 32 characters or more, is best a variable or in the file: every user "
        "of a machine can read the flags of its processes.",
    )
    parser.add_argument("bot_id", metavar="BOT_ID", help="id that the bot will say it has")
    parser.add_argument(
        "--ttl",
        required=True,
        metavar="TIME",
        help="how long it lets in, as 45m, 2h or 7d: a bot that comes back later, after a lost "
        "connection too, is refused; one that is in stays in",
    )
    add_flags(parser, only={"token_key"})
    given = parser.parse_args(arguments)
    key = load_settings(vars(given), os.environ).token_key
    if key is None:
        raise SettingsError(
            f"token_key: is needed to make tokens; set ${ENV_PREFIX}TOKEN_KEY, or name the "
            "server's --config"
        )
    try:
        bot_id = parse_hello(encode_hello(given.bot_id)).bot_id  # no token that no bot can use
    except HandshakeError as error:
        raise SettingsError(f"BOT_ID: {error}") from error
    token = BotToken(bot_id, int(time.time()) + read_ttl(given.ttl))
    sys.stdout.write(mint_token(key, token) + "\n")
    return 0


def _serve(parser: argparse.ArgumentParser, arguments: list[str], agent: Agent | None) -> int:
    lifeline = os.environ.pop(LIFELINE_VARIABLE, None)  # an agent's children are no workers
    if lifeline is not None:
        return _work(lifeline, agent)
    settings = load_settings(vars(parser.parse_args(arguments)), os.environ)
    set_up_logging(sys.stderr, settings.log_level, settings.log_format)
    _warn_of_typos(os.environ)
    agent, name = _named(agent, settings)
    _own_the_process()
    if settings.workers == 1:
        serve = functools.partial(Server, agent, settings)
        trio.run(_run_until_told, serve, name, settings, clock=AudioClock())
        return 0
    from trio_bridge.fleet.supervisor import Supervisor, own_command

    command = own_command(sys.executable, sys.orig_argv, sys.argv[0])
    environ = dict(os.environ)
    trio.run(_run_until_told, lambda: Supervisor(settings, command, environ), name, settings)
    return 0


def _work(lifeline: str, agent: Agent | None) -> int:
    """Be one of the workers that a process started with ``--workers`` has."""
    from trio_bridge.fleet.worker import name_worker_in_logs, open_lifeline, work

    line, post = open_lifeline(lifeline)
    set_up_logging(sys.stderr, post.settings.log_level, post.settings.log_format)
    name_worker_in_logs(post.slot)
    _own_the_process()
    trio.run(work, _named(agent, post.settings)[0], line, post, clock=AudioClock())
    return 0


def _own_the_process() -> None:
    """Set up what only a whole program may decide: its heap, and the cycle collector."""
    if keep_large_apart():
        make_streams_apart()
    _collect_rarely()


def _collect_rarely() -> None:
    """Let the cycle collector look at the living less often.

    A frame leaves no cycle behind, but a few hundred of them under way are enough for Python's
    default threshold of 700, and each collection walks through what every meeting holds.
    """
    gc.freeze()  # what was imported lives as long as the process
    gc.set_threshold(COLLECT_AFTER)


def _named(agent: Agent | None, settings: Settings) -> tuple[Agent, str]:
    """The agent to run, and what to call it."""
    if agent is not None:
        return agent, getattr(agent, "__name__", repr(agent))
    from trio_bridge.agents import find_agent  # those who bring one need not load ours

    found = find_agent(settings.agent)
    return found.agent, found.name + (f" ({found.note})" if found.note else "")


class _Service(Protocol):
    """A `Server`, or the supervisor of several."""

    draining: bool
    stopped: trio.Event

    async def run(self, *, task_status: trio.TaskStatus[Address]) -> None: ...

    def stop(self, drain_s: float = 0.0) -> None: ...

    async def reload(self) -> None: ...


async def _run_until_told(
    make_service: Callable[[], _Service], name: str, settings: Settings
) -> None:
    """Serve until SIGTERM (drain) or Ctrl-C (at once); a second signal does not wait."""
    service = make_service()
    told = trio.Event()
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, signals, service, settings.drain_s, told)
            nursery.start_soon(_insist, service, settings, told)
            if hasattr(signal, "SIGHUP"):  # Windows has none
                await nursery.start(_obey_hang_ups, service)
            address: Address = await nursery.start(service.run)
            sys.stdout.write(f"trio_bridge listening on {address.url}\nagent: {name}\n")
            sys.stdout.flush()
            await service.stopped.wait()
            nursery.cancel_scope.cancel()


async def _obey(
    signals: AsyncIterator[int], server: _Service, drain_s: float, told: trio.Event
) -> None:
    async for number in signals:
        told.set()
        server.stop(drain_s if number == signal.SIGTERM and not server.draining else 0.0)


async def _insist(service: _Service, settings: Settings, told: trio.Event) -> None:
    """Leave, some time after we were told to, without what refuses to be cancelled."""
    await told.wait()
    ending_s = settings.drain_s + settings.wrap_up_s + settings.teardown_s
    deadline_s = trio.current_time() + ending_s + settings.close_s + PATIENCE_S
    with trio.CancelScope(deadline=deadline_s, shield=True):
        await service.stopped.wait()
    if not service.stopped.is_set():
        log.error("exit without what would not stop", extra={"after_s": ending_s})
        os._exit(STUCK_EXIT)  # Trio would wait for it, and the process manager for us


async def _obey_hang_ups(
    service: _Service, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Reload at each SIGHUP, whose default is to end the process.

    Also where there is nothing to reload, and when it was a terminal that closed: a signal that
    some bridges reload at and others die of would be a trap.
    """
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:  # what comes meanwhile is one more reload, not many
            await service.reload()


def _warn_of_typos(environ: Mapping[str, str]) -> None:
    # No error: Kubernetes gives every pod variables named after each of its services.
    known = {ENV_PREFIX + field.name.upper() for field in attrs.fields(Settings)}
    for name in sorted(environ.keys() - known - {ENV_PREFIX + "CONFIG"}):
        if name.startswith(ENV_PREFIX):
            log.warning("variable names no setting", extra={"variable": name})
