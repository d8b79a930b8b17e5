"""Where every sample of a meeting went: nothing is lost without a name."""

from __future__ import annotations

import attrs

from trio_bridge.audio.timeline import RATE_HZ
from trio_bridge.ears import Audience
from trio_bridge.intake import Intake
from trio_bridge.pacing import Playout


@attrs.frozen(kw_only=True)
class Ledger:
    """Samples at 48 kHz, at one moment. `faults` is empty when it balances."""

    received: int
    """Off the wire."""
    own_left_out: int
    """Our own voice, where it does not become silence."""
    placed: int
    """Into the timeline."""
    filled: int
    """Silence for gaps."""
    overlapped: int
    """Summed onto another speaker's."""
    waiting: int
    """In the timeline, not in the mix yet."""
    mixed: int
    """The mix: the meeting's length."""
    unheard: int
    """Of the mix, while no agent listened."""
    offered: int
    """To agents, in whichever view each asked for."""
    delivered: int
    dropped: int
    """The agent was too slow."""
    flushed: int
    """The agent stopped listening."""
    queued: int
    said: int
    """Speech, towards the meeting."""
    sent: int
    speech_flushed: int
    """Interrupted before it was sent."""
    speech_queued: int

    @property
    def faults(self) -> list[str]:
        """The equations that do not hold; always empty, or there is a bug."""
        equations = {
            "received = own + placed": self.received - self.own_left_out - self.placed,
            "placed + filled = mixed + overlapped + waiting": self.placed
            + self.filled
            - self.mixed
            - self.overlapped
            - self.waiting,
            "offered = delivered + dropped + flushed + queued": self.offered
            - self.delivered
            - self.dropped
            - self.flushed
            - self.queued,
            "said = sent + flushed + queued": self.said
            - self.sent
            - self.speech_flushed
            - self.speech_queued,
        }
        return [f"{name}: off by {error}" for name, error in equations.items() if error]

    def summary(self) -> dict[str, object]:
        """The figures a log line has, in seconds."""
        names = ("received", "mixed", "delivered", "dropped", "unheard", "said", "sent")
        figures = {f"{name}_s": round(getattr(self, name) / RATE_HZ, 3) for name in names}
        return {**figures, "ledger": self.faults or "balanced"}


def read_ledger(intake: Intake, audience: Audience, playout: Playout) -> Ledger:
    """The books of one meeting as they stand."""
    timeline, books = intake.timeline, audience.books()
    return Ledger(
        received=intake.received,
        own_left_out=intake.own_left_out,
        placed=timeline.received,
        filled=timeline.filled,
        overlapped=timeline.overlapped,
        waiting=timeline.waiting,
        mixed=timeline.mixed,
        unheard=audience.unheard,
        offered=books["offered"],
        delivered=books["taken"],
        dropped=books["dropped"],
        flushed=books["flushed"],
        queued=books["queued"],
        said=playout.said,
        sent=playout.sent,
        speech_flushed=playout.flushed,
        speech_queued=playout.queued,
    )
