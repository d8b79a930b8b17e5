"""One child process that answers requests: started when needed, replaced when it dies."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from trio_bridge.agents.local.errors import AgentError
from trio_bridge.agents.local.framing import FAILED, OK, Decoder, FramingError, Message, encode

START_S = 20.0
"""How much longer the first request to a new process may take: interpreter, imports, models.
Half a second on an idle machine; the rest is for a loaded one."""
GOODBYE_S = 1.0
"""How long a child may take to see that its input ended; then it is killed."""
RECEIVE_BYTES = 1 << 16
TRIES = 2

BOOT = """\
import sys
sys.path.insert(0, sys.argv[1])
from trio_bridge.agents.local.worker import run
run(sys.argv[2])
"""
"""Not ``-m``: that would take the package from the current directory, or not find it."""


def worker_command(kind: str) -> list[str]:
    """The command line of a worker that runs this very package with this interpreter."""
    root = Path(__file__).resolve().parents[3]
    return [sys.executable, "-P", "-c", BOOT, str(root), kind]


class DiedError(Exception):
    """The process ended, or speaks nonsense, in the middle of a request."""


@attrs.define(eq=False)
class Child:
    """A process and its pipes. One request at a time: others wait for it.

    Requests are small or replies are (speech one way, text the other), so the two pipes cannot
    block each other.
    """

    name: str
    """What it is for people: "the recogniser"."""
    command: Sequence[str]
    report: Callable[..., None]
    """Told ``("child replaced", name=..., reason=...)``; a meeting's `log`."""
    start_s: float = START_S
    _process: trio.Process | None = attrs.field(default=None, init=False)
    _decoder: Decoder = attrs.field(factory=Decoder, init=False)
    _number: int = attrs.field(default=0, init=False)
    _lock: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    @property
    def pid(self) -> int | None:
        """The process's id while there is one."""
        return None if self._process is None else self._process.pid

    async def request(self, body: bytes, deadline_s: float) -> bytes:
        """The reply to ``body``. A child that dies meanwhile is replaced and asked once more.

        On `trio.Cancelled` the child goes on and its reply is skipped later, but for a request
        that was half written: that child is killed.

        Raises:
            AgentError: it refused, took longer than ``deadline_s`` (plus ``start_s`` for a new
                one) or died twice.
        """
        async with self._lock:
            reason = ""
            for _ in range(TRIES):
                try:
                    return await self._try(body, deadline_s)
                except DiedError as death:
                    reason = str(death)
                    await self.stop(at_once=True)
                    self.report("child replaced", name=self.name, reason=reason)
            raise AgentError(f"{self.name} died {TRIES} times in one request: {reason}")

    async def _try(self, body: bytes, deadline_s: float) -> bytes:
        fresh = self._process is None
        limit_s = deadline_s + (self.start_s if fresh else 0.0)
        try:
            with trio.fail_after(limit_s):
                return await self._exchange(body)
        except trio.TooSlowError:
            await self.stop(at_once=True)
            raise AgentError(f"{self.name} took longer than {limit_s:g} s") from None

    async def _exchange(self, body: bytes) -> bytes:
        process = await self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        self._number = (self._number + 1) % (1 << 32)
        try:
            await process.stdin.send_all(encode(Message(self._number, OK, body)))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise DiedError(_ending(process)) from error
        except (
            BaseException
        ):  # cancelled half-way: what the child would read next is not a head
            await self.stop(at_once=True)
            raise
        while True:
            try:
                data = await process.stdout.receive_some(RECEIVE_BYTES)
                messages = self._decoder.feed(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise DiedError(_ending(process)) from error
            except FramingError as error:
                raise DiedError(str(error)) from error
            if not data:
                with trio.move_on_after(GOODBYE_S):
                    await process.wait()
                raise DiedError(_ending(process))
            for message in messages:  # others answer requests that were cancelled
                if message.number == self._number:
                    return self._opened(message)

    def _opened(self, message: Message) -> bytes:
        if message.kind == FAILED:
            reason = message.body.decode("utf-8", "replace")
            raise AgentError(f"{self.name} failed: {reason}")
        return message.body

    async def _running(self) -> trio.Process:
        if self._process is None:
            self._decoder = Decoder()
            try:
                # No checkpoint between the process's birth and our knowing of it.
                self._process = await trio.lowlevel.open_process(
                    self.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
            except OSError as error:
                raise AgentError(f"{self.name} does not start: {error}") from error
        return self._process

    async def stop(self, *, at_once: bool = False) -> None:
        """End the process, by force after `GOODBYE_S`, and reap it. The next request starts
        another one. Shielded, and bounded: a killed process that cannot be reaped in another
        `GOODBYE_S` is left to the operating system."""
        process, self._process = self._process, None
        if process is None:
            return
        with trio.CancelScope(shield=True):
            with trio.move_on_after(GOODBYE_S):
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        await pipe.aclose()
            with trio.move_on_after(0.0 if at_once else GOODBYE_S):
                await process.wait()
            if process.returncode is None:
                process.kill()
                with trio.move_on_after(GOODBYE_S):
                    await process.wait()


@asynccontextmanager
async def open_child(
    name: str, command: Sequence[str], report: Callable[..., None], *, start_s: float = START_S
) -> AsyncIterator[Child]:
    """A child that is started by its first request and ended, reaped, with the block."""
    child = Child(name, command, report, start_s)
    try:
        yield child
    finally:
        await child.stop()


def _ending(process: trio.Process) -> str:
    with contextlib.suppress(OSError):
        process.poll()
    code = process.returncode
    return "it closed its pipes" if code is None else f"exit code {code}"
