"""The process that holds the port and the hatches, and keeps a worker in every slot.

It serves nobody itself. Because it never closes what the workers listen on, connections and
hand-overs only wait while a worker is started anew.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

import attrs
import trio

from trio_bridge.address import Address, address_of, open_listeners, warn_when_open
from trio_bridge.config import Settings
from trio_bridge.errors import BridgeError, SettingsError
from trio_bridge.fleet.places import Places, new_memory
from trio_bridge.fleet.post import LIFELINE_VARIABLE, READY, Post, encode_post
from trio_bridge.fleet.siblings import hatch_path

log = logging.getLogger(__name__)

START_S = 60.0
"""From a worker's start to its ready. Ours takes half a second; an agent may load a model."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
"""Before a worker that ended is started anew: doubled as long as it ends at once."""
STEADY_S = 10.0
"""A worker that lived for so long did not end at once."""
END_S = 6.0
"""What workers have on top of the drain and ``close_s``: the rest of a goodbye, and an agent's
teardown. Then they are killed."""
BACKLOG = 1024
NOT_STARTED = 127
"""The shell's exit code of what could not be run."""


class FleetError(BridgeError):
    """The workers cannot be started; the text says why."""


@attrs.define(eq=False)
class Worker:
    """A running worker process, and the line to it."""

    process: trio.Process
    lifeline: socket.socket
    ready: bool = False

    def order(self, drain_s: float) -> None:
        """Tell it to end, with ``drain_s`` for its meetings. Never waits, never fails."""
        with contextlib.suppress(OSError):  # it is ending already
            self.lifeline.send(b"%r\n" % drain_s)


@attrs.define(eq=False)
class Supervisor:
    """A fleet that can be started in a nursery and told to stop, like a `Server`."""

    settings: Settings
    command: Sequence[str] = attrs.field(repr=False)
    """Starts a worker: the command line of this very process, secrets and all."""
    environ: Mapping[str, str] = attrs.field(repr=False)
    draining: bool = attrs.field(default=False, init=False)
    stopped: trio.Event = attrs.field(factory=trio.Event, init=False)
    """`run` is over."""
    _workers: dict[int, Worker] = attrs.field(factory=dict, init=False)
    _places: Places = attrs.field(init=False)
    _begun: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Every worker has been ready, or there is no need any more."""
    _stop: trio.Event = attrs.field(factory=trio.Event, init=False)
    _patience: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    """Until its deadline the workers may take their time to end."""
    _at_once: bool = attrs.field(default=False, init=False)

    async def run(
        self, *, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep the workers until `stop`; ``nursery.start`` returns once all of them are ready.

        On `trio.Cancelled` they are killed.

        Raises:
            SettingsError: the address cannot be listened on, or workers cannot be had here.
            FleetError: a worker ended before all were ready; then none is left.
        """
        listeners = await open_listeners(self.settings)
        address = address_of(listeners[0], self.settings)
        announced = False
        failure: BaseException | None = None
        try:
            with contextlib.ExitStack() as held, self._patience:
                for listener in listeners:
                    held.callback(listener.socket.close)
                posts = self._write_posts(held, listeners)
                async with trio.open_nursery() as nursery:
                    for post in posts:
                        nursery.start_soon(self._keep, post)
                    await self._begun.wait()
                    fields = {"host": address.host, "port": address.port, "workers": len(posts)}
                    log.info("fleet listening", extra=fields)
                    warn_when_open(address, self.settings)
                    task_status.started(address)
                    announced = True
            if not announced:  # told to stop three times while it started
                task_status.started(address)
        except* BridgeError as failures:
            failure = failures  # of several workers that failed alike, the first will do
            while isinstance(failure, BaseExceptionGroup):
                failure = failure.exceptions[0]
        finally:
            log.info("fleet stopped")
            self.stopped.set()
        if failure is not None:
            raise failure

    def stop(self, drain_s: float = 0.0) -> None:
        """Tell the workers to end; see `Server.stop`. At once, said twice: they are killed."""
        now_s = trio.current_time()
        until_s = now_s + drain_s + self.settings.close_s + END_S
        if drain_s <= 0:
            until_s = now_s if self._at_once else until_s
            self._at_once = True
        self._patience.deadline = min(self._patience.deadline, until_s)
        self.draining = True
        for worker in self._workers.values():
            worker.order(drain_s)
        self._stop.set()
        self._begun.set()

    async def reload(self) -> None:
        """There is nothing: what can be reloaded is a certificate, and fleets have none."""
        await trio.lowlevel.checkpoint()
        log.info("nothing to reload", extra={"reason": "no --tls-cert"})

    def _write_posts(
        self, held: contextlib.ExitStack, listeners: Sequence[trio.SocketListener]
    ) -> list[Post]:
        directory, memory = self._make_places(held)
        return [
            Post(
                slot=slot,
                directory=directory,
                listeners=[listener.socket.fileno() for listener in listeners],
                hatch=held.enter_context(_open_hatch(hatch_path(directory, slot))).fileno(),
                memory=memory,
                settings=self.settings,
            )
            for slot in range(self.settings.workers)
        ]

    def _make_places(self, held: contextlib.ExitStack) -> tuple[str, int]:
        """The fleet's directory, and the descriptor of what its workers have in common."""
        try:
            directory = held.enter_context(
                tempfile.TemporaryDirectory(prefix="trio_bridge-", ignore_cleanup_errors=True)
            )
            memory = new_memory(self.settings.workers)
            held.callback(os.close, memory)
            self._places = Places(directory, self.settings.workers, memory)
            held.callback(self._places.close)
            self._places.make()
        except OSError as exc:
            raise SettingsError(
                f"workers: no temporary files can be made: {exc.strerror or exc}; set TMPDIR "
                "to a short path of a local disk that has room"
            ) from exc
        return directory, memory

    async def _keep(self, post: Post) -> None:
        """Start the worker of a slot, again and again until `stop`."""
        pause_s = FIRST_PAUSE_S
        while not self.draining:
            began_s = trio.current_time()
            try:
                exit_code = await self._run_worker(post)
            except OSError as exc:  # no memory, no descriptor: that may pass
                log.warning("worker cannot be started", extra={"reason": str(exc)})
                exit_code = NOT_STARTED
            if self.draining:
                return
            if not self._begun.is_set():
                raise FleetError(
                    f"worker {post.slot} ended with exit code {exit_code} before all were "
                    "ready; try it with --workers 1"
                )
            if trio.current_time() - began_s >= STEADY_S:
                pause_s = FIRST_PAUSE_S
            log.warning(
                "worker ended",
                extra={"slot": post.slot, "exit_code": exit_code, "again_in_s": pause_s},
            )
            with trio.move_on_after(pause_s):
                await self._stop.wait()
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _run_worker(self, post: Post) -> int:
        """One worker from its start to its end; its exit code (a signal's is negative)."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            _leave(ours, encode_post(post))
            process = await trio.lowlevel.open_process(
                self.command,
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), post.hatch, post.memory, *post.listeners),
                # Ctrl-C goes to every process of a terminal's group; ours get orders instead.
                start_new_session=True,
                env={**self.environ, LIFELINE_VARIABLE: str(theirs.fileno())},
            )
            theirs.close()
            worker = self._workers[post.slot] = Worker(process, ours)
            try:
                if self.draining:  # since it was begun to be started
                    worker.order(0.0)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._await_ready, worker, post.slot)
                    exit_code = await process.wait()
                    nursery.cancel_scope.cancel()
            finally:
                del self._workers[post.slot]
                if process.returncode is None:
                    log.warning("worker killed", extra={"slot": post.slot})
                    process.kill()
                    with trio.CancelScope(shield=True):  # short: nothing survives it
                        await process.wait()
                with contextlib.suppress(OSError):  # then they know no places either
                    self._places.clear(post.slot)  # its bots need not wait for the next one
        return exit_code

    async def _await_ready(self, worker: Worker, slot: int) -> None:
        with trio.move_on_after(START_S) as scope, contextlib.suppress(OSError):
            await trio.lowlevel.wait_readable(worker.lifeline)
            worker.ready = worker.lifeline.recv(1) == READY
        if worker.ready:
            log.info("worker ready", extra={"slot": slot, "pid": worker.process.pid})
        if scope.cancelled_caught:
            log.error("worker is not ready in time", extra={"slot": slot, "after_s": START_S})
            worker.process.kill()
        ready = sum(worker.ready for worker in self._workers.values())
        if ready == self.settings.workers:
            self._begun.set()


def own_command(executable: str, original: Sequence[str], program: str) -> list[str]:
    """What starts this process's program again, with the same arguments.

    Of ``sys``: ``executable``, ``orig_argv`` and ``argv[0]``.

    Raises:
        SettingsError: there is nothing to start, or this system cannot hand connections over.
    """
    if not hasattr(socket, "AF_UNIX") or not hasattr(socket, "SCM_RIGHTS"):
        raise SettingsError("workers: more than one needs a Unix system; leave it 1")
    if program in ("", "-"):
        raise SettingsError(
            "workers: each of them starts this program again, and it is not in a file; put it "
            "in one, or leave workers 1"
        )
    return [executable, *original[1:]]


def _open_hatch(path: str) -> socket.socket:
    hatch = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        hatch.bind(path)
        hatch.listen(BACKLOG)
    except OSError as exc:
        hatch.close()
        raise SettingsError(
            f"workers: no Unix socket can be made at {path}: {exc.strerror or exc}; set TMPDIR "
            "to a short path of a local disk"
        ) from exc
    return hatch


def _leave(lifeline: socket.socket, post: bytes) -> None:
    """Leave ``post`` in the kernel's buffer, for the worker to find when it starts."""
    with contextlib.suppress(BlockingIOError):
        if lifeline.send(post) == len(post):
            return
    raise SettingsError("workers: the settings are too long to be passed on; shorten them")
