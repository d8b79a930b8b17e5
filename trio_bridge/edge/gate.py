"""The gate: a Trio stream between the transport (TCP or TLS) and trio-websocket.

Inbound it replays a head we wrote, holds the rest back until our 101 is out, and gives
trio-websocket one checked frame per read; audio leaves through a callback. A violation is
turned into a Close "from the peer" that carries our code: trio-websocket echoes it, wakes the
application with that code and closes, all on its normal path. Outbound the gate watches for
the 101, our Close, and writes that did not complete; after one the stream is dead, never
corrupt. Messages are written past trio-websocket, which writes the 101 and control frames.
"""

from __future__ import annotations

from collections.abc import Callable

import trio
from trio_websocket import WebSocketConnection

from trio_bridge.bell import SET
from trio_bridge.edge.frames import (
    CLOSE,
    Cutter,
    OnAudio,
    OnText,
    Violation,
    close_frame,
    text_frame,
)
from trio_bridge.edge.limits import EdgeLimits
from trio_bridge.edge.transport import RawStream, linger

_SWITCHING = b"HTTP/1.1 101"
LUMPS = 16
"""Audio is charged to the budget once this part of a burst has come, not frame by frame."""
MOST_FOLLOWED = 250
"""Frames that are taken before the gate looks again: Python has small numbers once and for
all, which lie in the processor's caches."""
_CLOSE_BYTE = bytes([0x80 | CLOSE])


class Gate(trio.abc.Stream):
    """One connection from handshake to end; trio-websocket's reader is its only reader."""

    def __init__(
        self,
        inner: trio.abc.Stream,
        head: bytes,
        early: bytes,
        limits: EdgeLimits,
        *,
        upgraded: bool = False,
    ) -> None:
        """``head`` is replayed first; ``early`` is what the peer sent right behind its own.

        ``upgraded``: the peer has had its 101, so trio-websocket's goes nowhere.
        """
        self.inner = inner
        self.ws: WebSocketConnection | None = None
        """Set by the owner right after accepting: it knows first that a Close is under way."""
        self.verdict: Violation | None = None
        """Why *we* ended it."""
        self.fault: Exception | None = None
        """What the audio callback raised, if that is why."""
        self.armed = False
        self.given_away = False
        """Another process has the connection; nothing of it may be said here any more."""
        self.torn = False
        """A write was abandoned half-way: nothing can be sent any more."""
        self.admitted = trio.Event()
        """Armed, or ending: the hold after the first message is over."""
        self.ending = False
        """Our Close is on the wire, or the stream is torn, at its end, or closed."""
        self.on_armed: Callable[[], None] = _nothing
        self.on_ending: Callable[[], None] = _nothing
        self.done = trio.Event()
        """Closed for good."""
        self._limits = limits
        self._upgraded = upgraded
        self._head = head
        self._cutter = Cutter(limits)
        self._cutter.feed(early)
        self._opened = trio.Event()
        self._dead = self._receiving = self._deserted = False
        self._pen = trio.StrictFIFOLock()
        """Whoever writes holds it: trio-websocket, and `send_text`."""
        self._turns = 0
        self._stash: bytes | None = None
        self._budget_bytes = limits.burst_bytes
        self._budget_at_s = trio.current_time()
        self._charged_frames = 0
        self._uncharged_bytes = 0
        self._lump_bytes = limits.burst_bytes / LUMPS
        self._followed_bytes = 0
        """Of each frame that a follower takes where the bytes are read."""

    def arm(
        self, max_message_bytes: int, on_audio: OnAudio | None, on_text: OnText | None = None
    ) -> None:
        """The peer is known: messages of full size, those in one frame to the callbacks."""
        self._unfollow()
        self._cutter.arm(max_message_bytes, on_audio, on_text)
        self.armed = True
        self._admit()
        self.on_armed()

    def unread(self) -> bytes:
        """What the peer sent behind the first message, before `arm`: nothing is read then."""
        return self._cutter.uncut

    # -- inbound -----------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the next thing trio-websocket may see; ``b""`` at the end.

        ``max_bytes`` is ignored: a frame is never split. Nothing awaits between asking
        `WebSocketConnection.closed` about a frame and returning it.
        """
        if self._head:
            await trio.lowlevel.checkpoint()
            head, self._head = self._head, b""
            return head
        try:
            return await self._next_frame()
        except trio.Cancelled:
            self._deserted = True  # the reader task is going; see send_all
            raise

    async def _next_frame(self) -> bytes:
        if not self._opened.is_set():
            await self._opened.wait()
        limits, cutter = self._limits, self._cutter
        if self.armed and cutter.message_seen and cutter.calls:
            # It waits in `Socket.receive`; who takes it from there must have had a turn before
            # a later message in one frame reaches a callback.
            cutter.message_seen = False
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
        if self._turns >= limits.slow_turn:
            self._turns = 0
            await trio.lowlevel.checkpoint()
        while not self._dead:
            if self._stash is not None:
                stashed, self._stash = self._stash, None
                if not self._is_closing() or stashed[0] & 0x0F == CLOSE:
                    self._turns += 1
                    return stashed
            elif cutter.message_seen and not self.admitted.is_set():
                # A stranger's memory and CPU are bounded by not reading it.
                await self.admitted.wait()
            elif cutter.pending:
                frame = self._cut(trio.current_time())
                if frame is not None:
                    self._turns += 1
                    return frame
                if cutter.pending:  # its turn is over
                    await trio.lowlevel.checkpoint()
            elif not await self._take_in():
                break
        return b""

    def _is_closing(self) -> bool:
        return self.ws is not None and self.ws.closed is not None

    def _cut(self, now_s: float) -> bytes | None:
        turn = self._limits.fast_turn
        try:
            return self._cutter.cut(now_s, turn=turn, closing=self._is_closing())
        except Violation as violation:
            return self._judge(violation)
        except Exception as exc:  # the audio callback's; it must not look like the peer's doing
            return self._fail(exc)

    def _fail(self, fault: Exception) -> bytes:
        self.fault = fault
        return self._judge(Violation(1011, "internal error"))

    def _judge(self, violation: Violation) -> bytes:
        """End the conversation: the Close that trio-websocket is to see."""
        self.verdict = violation
        self._cutter.clear()
        self._admit()  # also a stranger must be able to leave
        return close_frame(violation)

    async def _take_in(self) -> bool:
        """Read on; True when there is something to do, False at the end of the stream.

        On a channel of audio the bytes are cut where they are read, and as long as they are
        audio nobody else is woken: see `_push`.
        """
        inner, at_most = self.inner, self._limits.receive_bytes
        self._receiving = True
        try:
            if self._cutter.hears and isinstance(inner, RawStream):
                alive = await self._hear(inner, at_most)
            else:
                data = bytes(await inner.receive_some(at_most))
                alive = bool(data)
                if alive and self._cutter.hears:
                    self._push(data)
                elif alive:
                    self._cutter.feed(data)
                    self._uncharged_bytes += len(data)
                    self._charge(trio.current_time())
        except trio.BrokenResourceError:
            self._end()
            raise
        finally:
            self._receiving = False
            self._unfollow()
        if not alive:
            self._end()
        elif self._budget_bytes < 0:  # a debt is worked off by not reading
            await trio.sleep(-self._budget_bytes / self._limits.bytes_per_s)
        return alive

    async def _hear(self, inner: RawStream, at_most: int) -> bool:
        try:
            return await inner.read_into(self._push, at_most)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            raise  # the stream's own
        except Exception as exc:  # a follower's
            self._stash = self._fail(exc)
            return True

    def _push(self, data: bytes) -> bool:
        """Take ``data`` in, maybe outside any task; True: it was all audio."""
        self._unfollow()
        try:
            now_s = trio.current_time()
            rest = self._cutter.hear_usual(data, self._limits.fast_turn, now_s)
        except Exception as exc:  # the audio callback's; it must not look like the peer's doing
            self._stash = self._fail(exc)
            return False
        self._uncharged_bytes += len(data)
        if not rest and self._uncharged_bytes < self._lump_bytes:
            self._let_follow()
            return True
        if rest:
            self._cutter.feed(rest)
            self._stash = self._cut(now_s)
        self._charge(now_s)
        done = self._stash is None and not self._cutter.pending
        return done and self._budget_bytes >= 0 and not self._dead

    def _let_follow(self) -> None:
        """Let frames like the last one go straight to who takes them, until the next lump is
        to be charged: what these two objects know has left the processor's caches by then."""
        usual = self._cutter.usual
        if usual is None or not isinstance(self.inner, RawStream):
            return
        follower, self._followed_bytes = usual
        most = int(self._lump_bytes - self._uncharged_bytes) // self._followed_bytes
        self.inner.follow(follower, self._followed_bytes, min(most, MOST_FOLLOWED))

    def _unfollow(self) -> None:
        """Book what was taken meanwhile, and see everything again."""
        if isinstance(self.inner, RawStream) and (taken := self.inner.unfollow()):
            self._cutter.frames += taken
            self._uncharged_bytes += taken * self._followed_bytes

    def _charge(self, now_s: float) -> None:
        """Charge one token bucket for the bytes and frames since the last time."""
        limits = self._limits
        earned = (now_s - self._budget_at_s) * limits.bytes_per_s
        frames = self._cutter.frames
        spent = (
            self._uncharged_bytes + (frames - self._charged_frames) * limits.frame_cost_bytes
        )
        self._budget_bytes = min(limits.burst_bytes, self._budget_bytes + earned - spent)
        self._budget_at_s, self._charged_frames, self._uncharged_bytes = now_s, frames, 0

    # -- outbound ----------------------------------------------------------------------------

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write what trio-websocket says within its deadline, or end the stream.

        Raises:
            trio.BrokenResourceError: stalled, torn by an earlier write, closed, or reset.
        """
        if self._upgraded and not self._opened.is_set():
            self._check_whole()
            await trio.lowlevel.checkpoint()
        else:
            await self._write(data)
        if not self._opened.is_set():
            self._dead = bytes(data[: len(_SWITCHING)]) != _SWITCHING
            self._open()
        elif data[:1] == _CLOSE_BYTE:
            self._end()
            await (
                trio.lowlevel.cancel_shielded_checkpoint()
            )  # a reader cancelled with us says so
            if self._deserted:
                # The server is being cancelled and nobody is left to see the peer's answer:
                # wait for it here, then let trio-websocket's aclose() go on.
                await linger(self.inner, self._limits)
                raise trio.BrokenResourceError("the reader is gone")

    async def send_text(self, text: str) -> None:
        """Write one text message within its deadline, or end the stream.

        By way of trio-websocket a message gives way to other tasks when it is encoded already:
        after a stall a hundred chunks of speech did so at once, each in three forms of 13 KiB,
        and the heap grew with every stall. Here it does so only when somebody else writes or
        the kernel's buffer is full, and every few calls; a chunk costs a third less besides.
        On `Cancelled` before a byte was written the stream lives on.

        Raises:
            trio.BrokenResourceError: as from `send_all`, or our Close has been written.
        """
        await self._write(text_frame(text), message=True)

    async def _write(self, data: bytes | bytearray | memoryview, message: bool = False) -> None:
        """Write ``data`` when it is its turn; no ``message`` once the stream is ``ending``."""
        try:
            self._pen.acquire_nowait()  # `acquire` would give way to other tasks each time
        except trio.WouldBlock:
            await self._pen.acquire()
        try:
            self._check_whole(message)
            await self._write_slices(data)
        finally:
            self._pen.release()

    def _check_whole(self, message: bool = False) -> None:
        if self.torn or self._dead or (message and self.ending):
            raise trio.BrokenResourceError("a write was abandoned half-way, or it is closed")

    async def _write_slices(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()  # before a byte is out, nothing is torn
        slice_bytes = self._limits.write_slice_bytes
        self.torn = True  # until proven otherwise: a deadline, a cancellation, an error
        try:
            with memoryview(data) as view:
                for start in range(0, len(view), slice_bytes):
                    with trio.move_on_after(self._limits.write_s) as scope:
                        await self.inner.send_all(view[start : start + slice_bytes])
                    if scope.cancelled_caught:
                        raise trio.BrokenResourceError("write stalled")
            self.torn = False
        finally:
            if self.torn:
                self._end()

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    # -- the end -----------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the transport; after a violation, give the peer a moment to read our Close."""
        self._dead = True
        self._open()
        self._end()
        try:
            if self.verdict and not (self.torn or self._receiving or self.done.is_set()):
                await linger(self.inner, self._limits)
        finally:
            try:
                await self.inner.aclose()
            finally:
                self.done.set()

    def _end(self) -> None:
        self._unfollow()
        self._cutter.disarm()
        self._admit()
        if not self.ending:
            self.ending = True
            self.on_ending()

    def _open(self) -> None:
        self._opened.set()
        self._opened = SET

    def _admit(self) -> None:
        self.admitted.set()
        self.admitted = SET


def _nothing() -> None: ...
