"""One reader for all audio sockets, with an epoll of their own.

A task of its own for each frame costs Trio a re-armed descriptor and a task switch. Here one
task waits for the epoll's descriptor and reads every socket that has bytes; a connection's own
task runs only when something is not plain audio. While audio flows in a loop whose clock is an
`AudioClock`, not even that task runs: the sockets are read where the loop would sleep.

Only for cleartext sockets, and only where there is epoll (Linux).
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import time
from collections.abc import Callable

import outcome
import trio

from trio_bridge.bell import WOKEN, Bell
from trio_bridge.clock import Clock
from trio_bridge.edge.audio_clock import AudioClock
from trio_bridge.edge.follower import Follower
from trio_bridge.edge.frames import SHORT_HEAD_BYTES
from trio_bridge.edge.transport import READ_BYTES, RawStream
from trio_bridge.loop_turns import Begin, nobody, told

BATCH = 16
"""Sockets read before other tasks get their turn: some 0.5 ms; with a long tick five frames
each, 1 ms."""
LONGEST_WAIT_S = 0.001
"""The loop waits for audio alone for so long at a time, up to twice that, then looks at
everything else: the shortest wait that Python's epoll knows, which rounds up to it."""
RESTLESS_S = 0.005
"""So long a loop that never comes to rest leaves audio unread, at most."""
QUIET_S = 0.003
"""So long after the last audio the loop sleeps as usual until there is some: 25 bots at 20 ms
are as quiet for 2 % of the time."""

Sink = Callable[[bytes], bool]


class HubStream(RawStream):
    """A raw socket whose `read_into` is done by a `Hub`."""

    __slots__ = (
        "_alone", "_frame_bytes", "_hub", "_most", "_sink", "_spare", "_task", "follower",
        "max_bytes",
    )  # fmt: skip

    def __init__(self, stream: trio.SocketStream, hub: Hub) -> None:
        super().__init__(stream)
        self.max_bytes = 0
        self._hub = hub
        self._sink: Sink | None = None
        self._task: trio.lowlevel.Task | None = None
        self.follower: Follower | None = None
        self._frame_bytes = self._most = self._spare = 0
        self._alone = False
        """What was read last was one frame, so that the next may be, too."""

    def follow(self, follower: Follower, frame_bytes: int, most: int) -> None:
        self.follower, self._frame_bytes = follower, frame_bytes
        self._most = self._spare = most

    def unfollow(self) -> int:
        taken = self._most - self._spare
        self.follower = None
        self._most = self._spare = 0
        return taken

    async def read_into(self, sink: Sink, max_bytes: int) -> bool:
        self._check_open()
        self._hub.watch(self)
        self._acknowledge_later()
        self._sink, self.max_bytes = sink, min(max_bytes, READ_BYTES)
        self._task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._leave()
            return trio.lowlevel.Abort.SUCCEEDED

        alive: bool = await trio.lowlevel.wait_task_rescheduled(abort)
        return alive

    def serve(self, now_s: float) -> bool:
        """Read what there is, `max_bytes` at most or little more than the frame that is likely,
        and hand it on; whether there may be more.
        Called by the hub; never waits.

        What sink or follower raise is their own reader's, unless it is no `Exception`.
        """
        sink = self._sink
        if sink is None:
            return False
        follower, asked = self.follower, self.max_bytes
        try:
            if (
                follower is not None
                and self._alone
                and self._frame_bytes + SHORT_HEAD_BYTES <= asked
            ):
                # It arrives where it is kept, with nothing to give back but a few bytes of the
                # same block (see `read_now`). Should there be more than one, this is full: the
                # rest then comes as usual, and the next one's head told the cutter its length.
                asked = self._frame_bytes + SHORT_HEAD_BYTES
                data = self.socket.recv(asked)
            else:
                room = self._hub.room
                data = bytes(room[: self.socket.recv_into(room, asked)])
            size = len(data)
            if (
                follower is not None
                and size == self._frame_bytes
                and self._spare
                and follower.take(data, now_s)
            ):
                self._spare -= 1
            elif not size:
                self._finish(outcome.Value(False))
            elif not sink(data):
                self._finish(outcome.Value(True))
        except BlockingIOError:  # readiness can be spurious
            return False
        except OSError as exc:
            self._finish(outcome.Error(trio.BrokenResourceError(str(exc))))
        except Exception as exc:  # one connection's fault must not end the hub
            self._finish(outcome.Error(exc))
        else:
            self._alone = size == self._frame_bytes
            return size == asked
        return False

    async def aclose(self) -> None:
        if self._sink is not None:
            self._finish(outcome.Error(trio.ClosedResourceError()))
        await super().aclose()

    def _acknowledge_later(self) -> None:
        """Let the kernel acknowledge audio as it comes, not each time that it is read.

        On a socket that only reads, every ``recv`` sends an acknowledgement of its own: 3 of
        its 4.5 us on loopback, where a proxy in front also is. The kernel goes back to that by
        itself when a sender turns out to wait for one (measured: one stall of 20 ms, once).
        """
        with contextlib.suppress(OSError, AttributeError):  # not TCP, gone, or not Linux
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)

    def _finish(self, result: outcome.Outcome[bool]) -> None:
        task = self._task
        if task is None:  # the sink has cancelled its own reader
            return
        self._leave()
        WOKEN.tasks += 1
        trio.lowlevel.reschedule(task, result)

    def _leave(self) -> None:
        self._hub.unwatch(self)
        self._sink = self._task = None


class Hub:
    """Reads the sockets of every `HubStream` that waits in `read_into`, each at once."""

    def __init__(self, poll_s: float = 0.0, clock: Clock | None = None) -> None:
        """``poll_s``: how long after audio the loop goes on looking for more instead of
        sleeping, where its clock is an `AudioClock` (busy polling). What is due by ``clock`` is
        struck then when there is no audio."""
        self.room = memoryview(bytearray(READ_BYTES))
        """Where bytes arrive, of one socket at a time, for the reason of `read_now`."""
        self._poll_s = poll_s
        self._others = clock or Clock()
        """What else is to be done, and when."""
        self._epoll = select.epoll()
        self._streams: dict[int, HubStream] = {}
        self._heard_s = -math.inf
        """When audio came last."""
        self._lull = Bell()
        """Rings when there was none for a while."""
        self._alarm = trio.CancelScope()
        """Around the hub's sleep: its deadline is when the clock, asked no more, will have left
        audio unread for too long."""
        self._renewed_s = -math.inf
        """When that was put off last."""
        self._turn_begins: Begin = nobody
        """Is told when the clock's wait is over, or our task runs because nobody asks it."""
        self._fault: BaseException | None = None
        """What ended the reading outside the hub's task."""
        self._reading = trio.CancelScope()

    def watch(self, stream: HubStream) -> None:
        """Read ``stream`` from now on.

        Raises:
            trio.ClosedResourceError: the hub is over.
        """
        if self._epoll.closed:
            raise trio.ClosedResourceError("nobody reads any more")
        descriptor = stream.socket.fileno()
        self._epoll.register(descriptor, select.EPOLLIN)
        self._streams[descriptor] = stream

    def unwatch(self, stream: HubStream) -> None:
        """Leave ``stream`` alone; it must be done before its socket is closed."""
        descriptor = stream.socket.fileno()
        self._streams.pop(descriptor, None)
        if self._epoll.closed:
            return
        # Unregistered, not masked: epoll reports a hang-up of masked descriptors for ever.
        self._epoll.unregister(descriptor)

    async def run(self) -> None:
        """Read until cancelled; what waits then is left to its own task's end.

        Raises:
            BaseException: what a sink raised that is no `Exception`.
        """
        try:
            with self._reading:
                await self._read()
            if self._fault is not None:
                raise self._fault
        finally:
            self._epoll.close()

    async def _read(self) -> None:
        clock = trio.lowlevel.current_clock()
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            self._serve(self._epoll.poll(0, BATCH), self._hear_now())
            if isinstance(clock, AudioClock) and clock.wait is None:
                clock.wait = self._wait
                try:
                    await self._flow()
                finally:
                    clock.wait = None

    async def _flow(self) -> None:
        """Have the clock read until no audio comes for a while.

        Trio is not asked meanwhile to look at the epoll, too: of 400 bots it would read every
        third frame with a task's turn and two system calls more. But while some task can always
        run nobody asks the clock: then we read.
        """
        left = self._others.left_to_another(slack_s=RESTLESS_S)
        with left, told(every_s=RESTLESS_S) as self._turn_begins:
            while (now_s := trio.current_time()) - self._heard_s <= QUIET_S:
                with trio.CancelScope(deadline=now_s + RESTLESS_S) as self._alarm:
                    await self._lull.wait()
                while ready := self._epoll.poll(0, BATCH):
                    self._serve(ready, self._hear_now())
                    await trio.lowlevel.checkpoint()
                    self._turn_begins(trio.current_time())
                self._turn_begins(trio.current_time())

    def look(self) -> bool:
        """Read audio that has come; whether that has woken a task. For a task that has more to
        do: while one can run nobody asks the clock."""
        woken = WOKEN.tasks
        if not self._epoll.closed and (ready := self._epoll.poll(0, BATCH)):
            self._serve(ready, self._hear_now())
        return WOKEN.tasks != woken

    def _wait(self, now_s: float, at_most_s: float) -> None:
        """Wait for audio and read it, until that wakes a task, and while there is none, strike
        what is due. Called by the loop's clock.

        Of three frames of 20 ms one is only kept for the next: then the loop need not turn.
        """
        if now_s - self._heard_s > QUIET_S:
            self._lull.ring()
            return
        if now_s - self._renewed_s > RESTLESS_S / 2:  # not each time: it takes a microsecond
            self._renewed_s, self._alarm.deadline = now_s, now_s + RESTLESS_S
        until_s = now_s + min(at_most_s, LONGEST_WAIT_S)
        poll, woken, others = self._epoll.poll, WOKEN.tasks, self._others
        try:
            while now_s < until_s and WOKEN.tasks == woken:
                looks = now_s - self._heard_s < self._poll_s
                wait_s = 0.0 if looks else min(until_s, others.next_s) - now_s
                ready = poll(max(0.0, wait_s), BATCH)
                now_s = time.perf_counter()
                if ready:
                    self._heard_s = now_s
                    self._serve(ready, now_s)
                elif now_s >= others.next_s:
                    others.strike_one(now_s)
            self._turn_begins(time.perf_counter())
        except BaseException as exc:  # `run` raises it
            self._fail(exc)

    def _hear_now(self) -> float:
        """There is audio; the time."""
        self._heard_s = now_s = trio.current_time()
        return now_s

    def _fail(self, fault: BaseException) -> None:
        self._fault = fault
        self._reading.cancel()

    def _serve(self, ready: list[tuple[int, int]], now_s: float) -> list[tuple[int, int]]:
        """Read each of ``ready`` once, ``now_s``; those that may have more."""
        streams = [self._streams.get(descriptor) for descriptor, _ in ready]
        for stream in streams:
            if stream is not None and stream.follower is not None:
                # What each needs has left the processor's caches since its last frame. This
                # touches all of it in one loop of C, so that the processor fetches it at the
                # same time and not, as what looks at it would, one thing after the other.
                list(stream.follower.needs)
        more = []
        for one, stream in zip(ready, streams, strict=True):
            if stream is not None and stream.serve(now_s):
                more.append(one)
        return more
