"""One meeting's audio from the socket to the agent's ears: the steps of a frame, in order."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from trio_bridge.audio.timeline import ABSENT_S, Heard
from trio_bridge.bargein import BargeIn
from trio_bridge.ears import Audience
from trio_bridge.intake import Intake
from trio_bridge.ledger import Ledger, read_ledger
from trio_bridge.pacing import Playout
from trio_bridge.stretch import Stretch


@attrs.define(eq=False)
class Inflow:
    """Decoded, placed on the timeline, looked at for a barge-in, given to every ear.

    A frame like the one before it takes the short way of `Stretch`.
    """

    intake: Intake
    audience: Audience
    playout: Playout
    barge_in: BargeIn
    on_barge_in: Callable[[], object]
    stale: int = attrs.field(default=0, init=False)
    """Messages of a channel that had been replaced."""
    _source: object | None = attrs.field(default=None, init=False)
    _stretch: Stretch | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.audience.settle, self.audience.regroup = self._settle, self._end_stretch
        self.playout.on_speech = self._stop_stretch

    def listen_to(self, source: object | None) -> None:
        """From now on ``source`` is heard, and nobody else."""
        self._end_stretch()
        self._source = source

    def hear(self, source: object, message: bytes | str, now_s: float) -> Stretch | None:
        """One message of an audio channel, which came at ``now_s``. Never waits.

        Returns who takes the frames that are like it, if they may go the short way.

        Raises:
            FrameError: it was no frame; it is counted, and the next good one is heard.
        """
        if source is not self._source:
            self.stale += 1
            return None
        self._end_stretch()
        self._give(self.intake.take(message, now_s), now_s)
        self._stretch = Stretch.after(message, self.intake, self.audience, self.playout, now_s)
        return self._stretch

    def flows_until_s(self, now_s: float) -> float | None:
        """When the audio will have stopped, unless another frame comes; None: `tick` must say.

        It spares `tick` a meeting whose audio flows, which nearly all do each time.
        """
        stretch = self._stretch
        if stretch is None:
            return None
        stops_s = stretch.arrived_s + ABSENT_S
        return stops_s if stops_s > now_s else None

    def tick(self, now_s: float) -> float:
        """Time has passed: gaps become silence. Returns when to come again."""
        self._settle()
        timeline = self.intake.timeline
        heard = timeline.tick(now_s)
        if heard.mix or heard.voices:
            self._end_stretch()
            self._give(heard, now_s)
        return timeline.tick_due_s(now_s)

    def finish(self, now_s: float) -> None:
        """The meeting is over: what is still on its way arrives, and every ear ends."""
        self.listen_to(None)
        self._give(self.intake.timeline.finish(now_s), now_s)
        self.audience.close()

    def let_go(self) -> None:
        """Nobody will call again: drop what calls back, and with it the reference cycles.

        A meeting with some hundred KiB of speech in it must not wait for the collector; and a
        failed agent's, which Trio's own cycles keep until then, must not hold the speech.
        """
        self._end_stretch()
        self.playout.let_go()
        self.audience.settle = self.audience.regroup = _nothing
        self.playout.on_speech = self.on_barge_in = _nothing

    @property
    def frames(self) -> int:
        """Good frames so far."""
        self._settle()
        return self.intake.frames

    @property
    def ledger(self) -> Ledger:
        """Where every sample went, as of now."""
        self._settle()
        return read_ledger(self.intake, self.audience, self.playout)

    def _give(self, heard: Heard, now_s: float) -> None:
        if not heard.mix and not heard.voices:
            return
        if self.barge_in.hears(heard.mix, self.playout.audible(now_s)):
            self.on_barge_in()
        self.audience.hear(heard)

    def _settle(self) -> None:
        if self._stretch is not None:
            self._stretch.settle()

    def _stop_stretch(self) -> None:
        if self._stretch is not None:
            self._stretch.stop()

    def _end_stretch(self) -> None:
        stretch, self._stretch = self._stretch, None
        if stretch is not None:
            stretch.end()


def _nothing() -> None:
    pass
