"""When the next chunk of speech goes out, and how much of it was heard.

The bot plays what it is sent and never says how far it is. So its queue is modelled: a chunk
is played from when it arrived or the one before it ended. Chunks leave at absolute deadlines
that keep the modelled queue between ``lead - chunk`` and ``lead``; relative sleeps would
under-feed it by 0.6 %. Sans-I/O: the caller says what time it is, in seconds.

What waits is kept as it will be sent, in PCM16: half of float32, and converted once.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from trio_bridge.audio.pcm import Samples, to_pcm16
from trio_bridge.spool import Spool

RATE_HZ = 48_000
"""The only rate the bot plays."""

SAMPLE_BYTES = 2

SHORTEST_CHUNK_S = 0.02
"""Less is not worth a message, unless it is the end of what was said."""


def _new_spool(playout: Playout) -> Spool:
    return Spool(round(playout.chunk_s * RATE_HZ) * SAMPLE_BYTES)


@attrs.define(eq=False)
class Playout:
    """The speech between an agent and the bot's loudspeaker.

    Balance, in samples at 48 kHz: ``said == sent + flushed + queued``.
    """

    chunk_s: float
    lead_s: float
    said: int = attrs.field(default=0, init=False)
    sent: int = attrs.field(default=0, init=False)
    flushed: int = attrs.field(default=0, init=False)
    cleared: int = attrs.field(default=0, init=False)
    """Sent samples that the bot was told to throw away; not every platform does."""
    queued: int = attrs.field(default=0, init=False)
    on_speech: Callable[[], object] = attrs.field(default=lambda: None, init=False)
    """Called when something has been said."""
    starved: int = attrs.field(default=0, init=False)
    """Times the bot ran dry in the middle of speech, because the agent was late."""
    _spool: Spool = attrs.field(default=attrs.Factory(_new_spool, takes_self=True), init=False)
    _complete: bool = attrs.field(default=True, init=False)
    """No more speech follows what is queued: it may go out as a short chunk."""
    _open: bool = attrs.field(default=False, init=False)
    """The last chunk sent was not the end of what is being said."""
    _before: tuple[float, bool, int] = attrs.field(
        default=(float("-inf"), False, 0), init=False
    )
    """What the last `take` changed, for `put_back`."""
    _ends_s: float = attrs.field(default=float("-inf"), init=False)
    """When the bot will have played everything sent."""
    _not_before_s: float = attrs.field(default=float("-inf"), init=False)

    def push(self, samples: Samples) -> None:
        """Queue speech, float32 ``(n,)`` at 48 kHz; the caller may reuse ``samples``."""
        if len(samples):
            self._spool.append(to_pcm16(samples))
            self.queued += len(samples)
            self.said += len(samples)
            self._complete = False
            self.on_speech()

    def complete(self) -> None:
        """What was pushed is a whole: its end need not wait for a full chunk."""
        self._complete = True
        self._open = self._open and self.queued > 0

    def due_s(self) -> float | None:
        """When the next chunk should go out; None while there is nothing to send."""
        if not self.queued:
            return None
        keep_s = self.lead_s - self.chunk_s
        if not self._complete and self.queued < self.chunk_s * RATE_HZ:
            if self.queued < SHORTEST_CHUNK_S * RATE_HZ:
                return None
            keep_s /= 2  # rather a short chunk than a bot that runs dry while we wait
        return max(self._ends_s - keep_s, self._not_before_s)

    def take(self, now_s: float) -> bytes:
        """The next chunk, PCM16-LE; call it when `due_s` has come and send it.

        It is as long as a chunk, or as all that is queued; one that was put back stays as it
        is.
        """
        self._before = self._ends_s, self._open, self.starved
        if self._open and now_s > self._ends_s:
            self.starved += 1
        chunk = self._spool.take()
        length = len(chunk) // SAMPLE_BYTES
        self.queued -= length
        self.sent += length
        self._open = bool(self.queued) or not self._complete
        self._ends_s = max(self._ends_s, now_s) + length / RATE_HZ
        return chunk

    def put_back(self, chunk: bytes) -> None:
        """Undo the last `take`: its chunk never left."""
        self._spool.put_back(chunk)
        length = len(chunk) // SAMPLE_BYTES
        self.queued += length
        self.sent -= length
        self._ends_s, self._open, self.starved = self._before

    def flush(self, now_s: float) -> int:
        """An interrupt: drop what is queued, count it and what the bot has not played yet.

        New speech waits until the bot would have played that out: where it really did throw
        it away nobody notices, and where it did not the lead stays what it was.
        """
        flushed, self.queued = self.queued, 0
        self.flushed += flushed
        self._spool.clear()
        self._complete, self._open = True, False
        unplayed = self.unplayed(now_s)
        self.cleared += unplayed
        if unplayed:
            self._not_before_s = self._ends_s
            self._ends_s = now_s
        return flushed

    def let_go(self) -> None:
        """Nobody speaks any more, for now or for good: give the memory of the queue back, 94
        KiB a second. What is queued is lost; the books stay."""
        self._spool.let_go()

    def unplayed(self, now_s: float) -> int:
        """Samples sent that the bot has not played yet, by the model."""
        return round(max(0.0, self._ends_s - now_s) * RATE_HZ)

    def heard(self, now_s: float) -> int:
        """Samples heard in the meeting so far: an estimate, see `Turn.heard_error_s`."""
        return self.sent - self.cleared - self.unplayed(now_s)

    def audible(self, now_s: float) -> bool:
        """Speech is queued or being played."""
        return self.queued > 0 or self._ends_s > now_s

    def done_s(self) -> float:
        """When everything sent has been played; in the past when nothing is."""
        return self._ends_s
