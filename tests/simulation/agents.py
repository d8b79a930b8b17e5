"""The agent of a simulated meeting: it does what the plan says, well or badly."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import trio

from tests.simulation.bots import Bot, Mark
from tests.simulation.sockets import Record
from tests.simulation.steps import Order
from trio_bridge.ears import Ear
from trio_bridge.meeting import (
    AudioChunk,
    Event,
    Interrupt,
    Meeting,
    UserMessage,
    Utterance,
)

if TYPE_CHECKING:
    from tests.simulation.world import World

OWN_LEVEL, VOICE_LEVEL = 0.95, 0.1
"""Our own voice is louder than all others together, so it cannot hide in a mix."""
OWN_HEARD = 0.6
IMAGES = "https://images.example/"

FAILURES: tuple[Callable[[], BaseException], ...] = (
    lambda: RuntimeError("the model fell over"),
    lambda: ExceptionGroup("several", [ValueError("one"), OSError("two")]),
    asyncio.CancelledError,
    lambda: SystemExit(3),
)


class Run:
    """One run of the agent in one meeting."""

    def __init__(self, world: World, bot: Bot, record: Record, meeting: Meeting) -> None:
        self.world, self.bot, self.record = world, bot, record
        self.meeting = meeting
        self.number = len(bot.runs)
        self.ended = self.failing = False
        self.floor = 0
        """Interrupts of this meeting that the bot has been told of."""
        self.words_said = self.words_heard = 0
        self.texts: list[str] = []
        self.heard_samples = 0
        """Of the main ear, at its rate."""
        self.slow_s = 0.0
        self.busy = False
        """It is slow, and has not come back to listen."""
        self.ear: Ear[Event] | None = None
        self.stubborn_s = 0.0
        self._send, self._orders = trio.open_memory_channel[Order](math.inf)

    def order(self, order: Order) -> None:
        """Have it do something; at once, as far as the plan is concerned."""
        self._send.send_nowait(order)

    @property
    def listening(self) -> bool:
        """It hears everything that there is to hear."""
        return self.ear is not None and not self.busy and not self.slow_s

    async def live(self) -> None:
        """The agent."""
        try:
            async with trio.open_nursery() as nursery:
                if self.world.plan.listens:
                    self._listen(nursery)
                await self._obey(nursery)
                nursery.cancel_scope.cancel()
        finally:
            try:
                with trio.CancelScope(shield=True):
                    await trio.sleep(self.stubborn_s)
            finally:
                self.ended = True

    def _listen(self, nursery: trio.Nursery) -> None:
        plan = self.world.plan
        self.ear = self.meeting.events(rate_hz=plan.rate_hz, chunk_ms=plan.chunk_ms, by=plan.by)
        nursery.start_soon(self._hear_all, self.ear, nursery.cancel_scope)

    async def _hear_all(self, ear: Ear[Event], scope: trio.CancelScope) -> None:
        async for event in ear:
            self._hear(event, main=True)
            if self.slow_s:
                self.busy = True
                await trio.sleep(self.slow_s)
                self.busy = False
        if self.ear is ear:  # nobody closed it: the meeting is over
            scope.cancel()

    async def _hear_twice(self) -> None:
        async for event in self.meeting.events(rate_hz=16_000, chunk_ms=40, by="speaker"):
            self._hear(event, main=False)

    def _hear(self, event: Event, *, main: bool) -> None:
        blame = self.world.blame
        if isinstance(event, AudioChunk | Utterance):
            loudest = float(np.abs(event.samples).max(initial=0.0))
            if loudest > OWN_HEARD:
                blame(f"the agent of {self.bot.id} heard its own voice ({loudest:.2f})")
            speaker = event.speaker
            if speaker is not None and not speaker.name.endswith(f"@{self.bot.id}"):
                blame(f"the agent of {self.bot.id} heard {speaker.name!r}")
            if main and isinstance(event, AudioChunk):
                self.heard_samples += len(event.samples)
        elif isinstance(event, UserMessage):
            if main:
                self.texts.append(event.text)
            if event.text not in self.bot.texts:
                blame(f"the agent of {self.bot.id} was told {event.text!r}")
        elif isinstance(event, Interrupt) and (event.flushed_s < 0 or event.heard_s < 0):
            blame(f"an interrupt with a negative figure: {event}")

    async def _obey(self, nursery: trio.Nursery) -> None:
        async for order in self._orders:
            self.world.trace("order", self.bot.id, order.task)
            match order.task:
                case "chat" | "caption" | "image":
                    await self._say_words(order.task)
                case "speak" | "speak shielded":
                    shielded = order.task != "speak"
                    nursery.start_soon(self._speak, order.amount, shielded)
                case "interrupt":
                    self.meeting.interrupt()
                case "slow":
                    self.slow_s = (0.0, 0.01, 0.1, 1.0)[order.amount % 4]
                case "stop listening":
                    ear, self.ear = self.ear, None
                    if ear is not None:
                        ear.close()
                case "listen twice":
                    nursery.start_soon(self._hear_twice)
                case "stubborn":
                    self.stubborn_s = (0.0, 0.5, 4.0, 8.0)[order.amount % 4]
                case "raise":
                    self.failing, self.ear = True, None
                    self.bot.fail(self.record)
                    raise FAILURES[order.amount % len(FAILURES)]()
                case "return":
                    self.stubborn_s = 0.0
                    self.ear = None  # it may have to wait for what it shielded
                    return

    async def _say_words(self, how: str) -> None:
        text = f"{self.bot.id}/{self.number}/{self.words_said}"
        ways: dict[str, Callable[[str], Awaitable[None]]] = {
            "chat": self.meeting.chat,
            "caption": partial(self.meeting.caption, final=False),
            "image": lambda path: self.meeting.show_image_url(IMAGES + path),
        }
        self.words_said += 1  # it is queued in the step that ends the wait
        try:
            await ways[how](text)
        except BaseException:
            self.words_said -= 1
            raise

    async def _speak(self, amount: int, shielded: bool) -> None:
        marks: list[Mark] = []
        session = self.record.session
        samples = (240, 4_800, 9_600, 48_000, 960, 24_000, 4_801, 1)[amount % 8]
        async with self.meeting.turn() as turn:
            epoch = session.pump.interrupts
            with trio.CancelScope(shield=shielded):
                for _ in range(1 + amount % 3):
                    mark = self.bot.new_mark(self, epoch, samples)
                    marks.append(mark)
                    speech = np.full(samples, mark.number / 32_768, np.float32)
                    await turn.say(speech, rate_hz=48_000)
        blame = self.world.blame
        if not 0 <= turn.heard_s <= turn.said_s + 1e-9:
            blame(f"of {turn.said_s} s {turn.heard_s} s were heard")
        if turn.interrupted:
            if session.pump.interrupts == epoch:
                blame("a turn was interrupted and nothing interrupted it")
        elif not session.over and self.bot.faulty_since_s is None:
            for mark in marks:
                if mark.received != mark.said:
                    blame(f"of mark {mark.number} {mark.received} of {mark.said} were sent")
