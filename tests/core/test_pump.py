"""The one writer of a control socket: order, failure, and a peer that does not read."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.core.rooms import tone
from trio_bridge.audio.pcm import to_pcm16
from trio_bridge.audio.resample import Quality, Resampler
from trio_bridge.ears import Audience
from trio_bridge.errors import SessionEndedError, SocketClosedError
from trio_bridge.meeting import Meeting, Turn
from trio_bridge.pacing import RATE_HZ, Playout
from trio_bridge.pump import COMMAND_BYTES, SILENT_S, Pump
from trio_bridge.wire.commands import SendImageUrl, SendMessage

pytestmark = pytest.mark.usefixtures("autojump_clock")


class Peer:
    """A control socket that takes ``pace_s`` a message and dies after ``lives`` of them."""

    def __init__(self, pace_s: float = 0.0, lives: int = 10**9) -> None:
        self.pace_s, self.lives = pace_s, lives
        self.got: list[str] = []
        self.writing = False

    async def send(self, text: str) -> None:
        assert not self.writing, "two writers on one socket"
        self.writing = True
        await trio.sleep(self.pace_s)
        self.writing = False
        if self.lives <= 0:
            raise SocketClosedError(1006)
        self.lives -= 1
        self.got.append(json.loads(text)["command"])


@asynccontextmanager
async def pumping(*peers: Peer) -> AsyncIterator[Pump]:
    pump = Pump("b", Playout(0.1, 0.3), 2 * RATE_HZ)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.run)
        if peers:
            pump.attach(peers[0])
        yield pump
        pump.stop()


async def test_commands_go_before_audio_and_an_interrupt_before_both() -> None:
    peer = Peer(pace_s=0.01)
    async with pumping() as pump:
        await pump.say(tone(1.0))
        await pump.command(SendMessage("x"))
        pump.attach(peer)
        await trio.sleep(0.005)  # the first command is being written
        await pump.command(SendMessage("y"))
        pump.interrupt()
        await pump.say(tone(0.1))
        await trio.sleep(0.5)
    assert peer.got == ["sendmsg", "interrupt", "sendmsg", "sendaudio"]


async def test_an_interrupt_waits_for_the_one_message_that_is_being_written() -> None:
    peer = Peer(pace_s=1.0)
    async with pumping(peer) as pump:
        await pump.say(tone(1.0))
        await trio.sleep(0.5)
        assert pump.interrupt() > 0
        await trio.sleep(0.6)
        assert peer.got == ["sendaudio"]
        await trio.sleep(1.0)
    assert peer.got == ["sendaudio", "interrupt"]


async def test_what_a_dying_socket_did_not_take_waits_for_the_next_one() -> None:
    first, second = Peer(lives=1), Peer()
    async with pumping(first) as pump:
        await pump.command(SendMessage("1"))
        await pump.command(SendMessage("2"))
        await pump.say(tone(0.2))
        pump.complete()
        await trio.sleep(5)
        assert first.got == ["sendmsg"]
        assert pump.playout.sent == 0
        pump.attach(second)
        await trio.sleep(5)
    assert second.got == ["sendmsg", "sendaudio", "sendaudio"]
    assert pump.playout.sent == pump.playout.said


async def test_a_chunk_and_an_interrupt_that_a_socket_did_not_take_are_sent_again() -> None:
    dying, next_one = Peer(lives=0), Peer()
    async with pumping(dying) as pump:
        await pump.say(tone(0.1))
        pump.complete()
        await trio.sleep(1)
        assert pump.playout.queued == 4_800
        pump.attach(Peer(lives=0))
        pump.interrupt()
        await trio.sleep(1)
        pump.attach(next_one)
        await trio.sleep(1)
    assert next_one.got == ["interrupt"]
    assert pump.playout.flushed == 4_800


async def test_an_interrupt_while_a_chunk_fails_does_not_bring_the_chunk_back() -> None:
    slow, next_one = Peer(pace_s=1.0, lives=0), Peer()
    async with pumping(slow) as pump:
        await pump.say(tone(0.1))
        pump.complete()
        await trio.sleep(0.5)
        pump.interrupt()
        await trio.sleep(1)
        pump.attach(next_one)
        await trio.sleep(1)
    assert next_one.got == ["interrupt"]


async def test_cancelling_the_pump_lets_the_message_under_way_go_out(
    autojump_clock: MockClock,
) -> None:
    peer = Peer(pace_s=1.0)
    with trio.move_on_after(0.5):
        async with pumping(peer) as pump:
            await pump.command(SendMessage("x"))
            await trio.sleep_forever()
    assert peer.got == ["sendmsg"]
    assert trio.current_time() == 1.0


async def test_saying_more_than_the_backlog_waits_and_stopping_wakes_it() -> None:
    async with pumping() as pump:
        with trio.move_on_after(100) as scope:
            await pump.say(tone(3.0))
        assert scope.cancelled_caught
        assert pump.playout.queued == 2 * RATE_HZ

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_expect_the_end, pump)
            await wait_all_tasks_blocked()
            pump.stop()


async def test_an_interrupt_ends_what_waits_to_be_said_though_its_speaker_is_shielded() -> None:
    async with pumping() as pump, trio.open_nursery() as nursery:

        async def speak() -> None:
            with trio.move_on_after(60) as scope:
                scope.shield = True
                await pump.say(tone(3.0))

        nursery.start_soon(speak)
        await wait_all_tasks_blocked()
        assert pump.interrupt() == 2 * RATE_HZ
        await wait_all_tasks_blocked()
        assert pump.playout.queued == 0
        assert pump.playout.said == pump.playout.flushed == 2 * RATE_HZ


async def _expect_the_end(pump: Pump) -> None:
    with pytest.raises(SessionEndedError):
        await pump.say(tone(1.0))


async def test_commands_wait_when_too_many_wait_for_a_socket() -> None:
    async with pumping() as pump:
        big = SendImageUrl("x" * (COMMAND_BYTES // 3))
        with trio.move_on_after(10) as scope:
            for _ in range(4):
                await pump.command(big)
        assert scope.cancelled_caught
        peer = Peer()
        pump.attach(peer)
        await pump.command(big)
        await trio.sleep(1)
    assert len(peer.got) == 3


async def test_a_detached_socket_that_is_no_longer_the_one_changes_nothing() -> None:
    old, new = Peer(), Peer()
    async with pumping(old) as pump:
        pump.attach(new)
        pump.detach(old)
        await pump.command(SendMessage("x"))
        await trio.sleep(1)
    assert (old.got, new.got) == ([], ["sendmsg"])


async def test_played_waits_for_a_chunk_in_flight_and_for_its_second_try() -> None:
    stalled, next_one = Peer(pace_s=5.0, lives=0), Peer()
    done_s: list[float] = []

    async def wait(pump: Pump) -> None:
        await pump.say(tone(0.1))
        pump.complete()
        await pump.played()
        done_s.append(trio.current_time())

    async with pumping(stalled) as pump, trio.open_nursery() as nursery:
        began_s = trio.current_time()
        nursery.start_soon(wait, pump)
        await trio.sleep(20)
        assert done_s == [], "nothing was ever taken by a bot"
        assert pump.playout.queued == 4_800
        pump.attach(next_one)
        await trio.sleep(1)
    assert next_one.got == ["sendaudio"]
    assert [at_s - began_s for at_s in done_s] == pytest.approx([20.1])


async def test_played_waits_no_longer_than_the_write_when_the_bot_is_slow_to_take() -> None:
    done_s: list[float] = []

    async with pumping(Peer(pace_s=5.0)) as pump:
        began_s = trio.current_time()
        await pump.say(tone(0.1))
        pump.complete()
        with trio.fail_after(60):
            await pump.played()
        done_s.append(trio.current_time() - began_s)
    assert done_s == pytest.approx([5.0])


async def test_played_does_not_wait_for_a_chunk_that_an_interrupt_and_a_failure_took() -> None:
    """As the next turn does that says nothing, when the socket dies after an interrupt."""
    async with pumping(Peer(pace_s=5.0, lives=0)) as pump:
        await pump.say(tone(0.1))
        pump.complete()
        await trio.sleep(1)
        pump.interrupt()
        with trio.move_on_after(60) as scope:
            await pump.played()
    assert not scope.cancelled_caught


# -- what speaking needs -----------------------------------------------------------------------


class Listening(Peer):
    """A peer that keeps the speech."""

    def __init__(self) -> None:
        super().__init__()
        self.pcm = b""

    async def send(self, text: str) -> None:
        await super().send(text)
        self.pcm += base64.b64decode(json.loads(text).get("audiochunk", ""))

    def take_pcm(self) -> bytes:
        pcm, self.pcm = self.pcm, b""
        return pcm


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Resampler]:
    """Every resampler that a pump makes."""
    made: list[Resampler] = []

    def make(from_hz: int, to_hz: int, quality: Quality) -> Resampler:
        made.append(Resampler(from_hz, to_hz, quality))
        return made[-1]

    monkeypatch.setattr("trio_bridge.pump.Resampler", make)
    return made


async def answer(meeting: Meeting, rate_hz: int = 24_000, seconds: float = 0.5) -> None:
    async with meeting.turn() as turn:
        await turn.say(tone(2 * seconds)[:: RATE_HZ // rate_hz], rate_hz=rate_hz)


async def test_the_next_turn_has_the_last_ones_resampler_and_sounds_the_same(
    made: list[Resampler],
) -> None:
    peer = Listening()
    async with pumping(peer) as pump:
        meeting = Meeting("b", Audience(RATE_HZ), pump)
        said = []
        for _ in range(3):
            await answer(meeting)
            said.append(peer.take_pcm())
        assert len(said[0]) == 2 * RATE_HZ
        assert said[1:] == [said[0], said[0]]
        assert len(made) == 1
        await answer(meeting, 16_000)
        await answer(meeting, 16_000)
        assert [resampler.from_hz for resampler in made] == [24_000, 16_000]


async def test_what_an_interrupted_turn_left_in_its_resampler_is_heard_in_no_other(
    made: list[Resampler],
) -> None:
    peer = Listening()
    async with pumping(peer) as pump:
        meeting = Meeting("b", Audience(RATE_HZ), pump)
        await answer(meeting)
        said = peer.take_pcm()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, meeting, 24_000, 20.0)
            await trio.sleep(1)
            meeting.interrupt()
        await trio.sleep(1)
        peer.take_pcm()
        await answer(meeting)
        assert peer.take_pcm() == said
        assert len(made) == 1


async def test_who_speaks_for_another_tasks_turn_when_it_is_interrupted_goes_on_unharmed() -> (
    None
):
    async with pumping(Listening()) as pump:
        meeting = Meeting("b", Audience(RATE_HZ), pump)

        async def speak(turn: Turn) -> None:
            for rate_hz in (24_000, 16_000, 24_000):
                await turn.say(tone(0.1), rate_hz=rate_hz)

        for _ in range(8):  # whichever of the two runs first
            async with trio.open_nursery() as nursery:
                async with meeting.turn() as turn:
                    nursery.start_soon(speak, turn)
                    await trio.lowlevel.checkpoint()
                    meeting.interrupt()
                    await trio.sleep(1)
                assert turn.interrupted
                await turn.say(tone(0.1), rate_hz=24_000)
            assert pump.playout.queued == 0


async def test_a_turn_that_ended_takes_no_more_from_a_task_that_still_speaks_for_it(
    made: list[Resampler],
) -> None:
    """Else two tasks would feed one resampler, and the next answer be mixed with this one."""
    peer = Listening()
    async with pumping(peer) as pump:
        meeting = Meeting("b", Audience(RATE_HZ), pump)
        await answer(meeting)
        said = peer.take_pcm()

        async def speak(turn: Turn) -> None:
            with pytest.raises(RuntimeError, match="the turn is over"):
                await turn.say(tone(120), rate_hz=24_000)

        async with trio.open_nursery() as nursery:
            with trio.move_on_after(1):
                async with meeting.turn() as turn:
                    nursery.start_soon(speak, turn)
                    await trio.sleep_forever()
        await pump.played()
        peer.take_pcm()
        await answer(meeting)
        assert peer.take_pcm() == said
        assert len(made) == 1


async def test_what_speaking_needs_is_given_back_after_a_silence_and_not_before() -> None:
    async with pumping(Peer()) as pump:
        meeting = Meeting("b", Audience(RATE_HZ), pump)
        await answer(meeting)
        done_s = trio.current_time()
        held_bytes = pump.playout._spool.held_bytes
        pump.rest(done_s)  # the meeting's clock looks several times a second
        pump.rest(done_s + SILENT_S - 0.1)
        assert pump._resampler is not None
        assert pump.playout._spool.held_bytes == held_bytes > 0
        pump.rest(done_s + SILENT_S + 0.1)
        assert pump._resampler is None
        assert pump.playout._spool.held_bytes == 0
        await answer(meeting)
        assert pump.playout.sent == pump.playout.said


async def test_a_resampler_that_comes_back_after_a_silence_goes_after_another() -> None:
    async with pumping(Peer()) as pump:
        meeting = Meeting("b", Audience(RATE_HZ), pump)
        async with meeting.turn() as turn:
            await turn.say(tone(0.5), rate_hz=24_000)
            pump.complete()
            await pump.played()
            for _ in range(3):  # the agent thinks
                await trio.sleep(SILENT_S)
                pump.rest(trio.current_time())
            meeting.interrupt()
            await trio.sleep_forever()
        assert pump._resampler is not None
        await trio.sleep(SILENT_S)
        pump.rest(trio.current_time())
        assert pump._resampler is None


async def test_speech_that_waits_for_a_socket_is_not_given_back_however_long() -> None:
    async with pumping() as pump:
        await pump.say(tone(0.5))
        pump.rest(trio.current_time() + 3_600)
        peer = Listening()
        pump.attach(peer)
        pump.complete()
        await pump.played()
    assert peer.pcm == to_pcm16(tone(0.5))


async def test_a_meeting_that_is_over_keeps_no_resampler() -> None:
    async with pumping(Peer()) as pump:
        meeting = Meeting("b", Audience(RATE_HZ), pump)
        await answer(meeting)
        borrowed = pump.borrow_resampler(24_000, "HQ")
        pump.stop()
        pump.return_resampler(borrowed)
        assert pump._resampler is None
