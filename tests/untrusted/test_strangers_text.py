"""What strangers write, all the way through a bridge: into every place where text can go.

In a folder of its own because it runs meetings under Hypothesis, on purpose.
"""

from __future__ import annotations

import json
import logging
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from urllib.parse import quote_from_bytes

import attrs
import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock
from trio_websocket import ConnectionClosed

from tests.core.rooms import Channel, Room, bridge, quiet, tone
from trio_bridge.agents.echo import echo
from trio_bridge.audio.pcm import to_pcm16
from trio_bridge.errors import SessionEndedError
from trio_bridge.inbox import MESSAGE_CHARACTERS
from trio_bridge.log import JsonFormatter, TextFormatter, printable
from trio_bridge.meeting import Agent, Meeting, UnknownMessage, UserMessage, Utterance
from trio_bridge.wire.control import MAX_KIND, encode_user_message
from trio_bridge.wire.hello import encode_hello

NASTY = [
    "\x1b[2J\x1b]0;owned\x07\x1b[31mred",
    "x\r\n12:00:00 ERROR   forged bot_id=other",
    '", "event": "forged", "x": "',
    "\u202egpj.exe\u2066\u200f",
    "\0\x9b\x85\u2028\u2029\ufeff",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "../../../../etc/cron.d/x",
    "{}%s%n$(id)`id`;'--",
    "who=Ann bot_id=other level=ERROR",
    "\U000e0001\U000f0000\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    "x" * 65_000,
    "\u202e" * 16_000,
    "\x1b[31m" * 8_000,
]
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
EVENTS = {
    *("listening", "draining", "stopped", "meeting began", "meeting ended", "channel joined"),
    *("channel left", "channel refused", "message rejected", "agent failed", "agent heard"),
    *("second ready with another bot_id ignored", "request refused", "interrupted"),
    *("peer broke the protocol", "interrupt sent"),
}
"""Every event there is when strangers talk: all are ours, and constant."""
REASONS = {
    *("not JSON", "JSON is not an object", "unknown type", "too many values", "too long"),
    *("short", "truncated speaker_id", "truncated sname_length", "truncated speaker_name"),
    *("command is not text", "type is not text", "no audioData", "bad base64"),
    *("truncated header", "binary message on the control channel", "message is not text"),
}
LONGEST_LINE, LONGEST_TRACE = 40_000, 150_000
"""Characters; most of them escapes, of which one stands for 6 or 12."""

quickly = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def each_nasty(test: object) -> object:
    for text in NASTY:
        test = example(text)(test)  # type: ignore[type-var]
    return test


@attrs.define(eq=False)
class Log(logging.Handler):
    """Everything that was logged, as both formats write it."""

    records: list[logging.LogRecord] = attrs.field(factory=list)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    __hash__ = logging.Handler.__hash__

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def judge(self) -> None:
        """Each record is one line that nobody can break, colour or forge."""
        for record in self.records:
            line, longest = JsonFormatter().format(record), LONGEST_LINE
            if record.exc_info:
                longest = LONGEST_TRACE
            assert printable(line) == line
            assert len(line) < longest
            fields = json.loads(line)
            assert fields["event"] in EVENTS
            assert (fields["level"], fields["logger"]) == (record.levelname, record.name)
            first, *rest = TextFormatter().format(record).split("\n")
            assert printable(first) == first
            assert len(first) < longest
            assert first[8:].startswith(f" {record.levelname:<7} {fields['event']}")
            assert bool(rest) == ("exception" in fields)
            for part in rest:
                assert part.startswith("  ")
                assert printable(part) == part


@contextmanager
def listening() -> Iterator[Log]:
    log, logger = Log(), logging.getLogger("trio_bridge")
    level = logger.level
    logger.addHandler(log)
    logger.setLevel(logging.DEBUG)
    try:
        yield log
    finally:
        logger.removeHandler(log)
        logger.setLevel(level)


@attrs.define
class Scribe:
    """An agent that logs all it hears, as careless ones do."""

    heard: list[object] = attrs.field(factory=list)
    fails: bool = False

    async def __call__(self, meeting: Meeting) -> None:
        async for event in meeting.events():
            self.heard.append(event)
            if isinstance(event, UserMessage):
                meeting.log("agent heard", text=event.text, who=str(event.speaker), all=event)
                if self.fails:
                    raise ValueError(f"what is {event.text}?")
            elif isinstance(event, Utterance):
                meeting.log("agent heard", who=str(event.speaker), speaker=event.speaker)
            elif isinstance(event, UnknownMessage):
                meeting.log("agent heard", kind=event.kind)

    def of(self, kind: type) -> list[object]:
        return [event for event in self.heard if isinstance(event, kind)]


def named_frame(name: bytes, pcm: bytes) -> bytes:
    field = struct.pack("<H", len(name)) + name
    return b"\1" + field + field + pcm


async def talk(audio: Channel, name: bytes) -> None:
    """An utterance of somebody who is called ``name``."""
    sound = [*([tone(0.1)] * 5), *([quiet(0.1)] * 8)]
    for samples in sound:
        await audio.send(named_frame(name, to_pcm16(samples)))
        await trio.sleep(0.1)


def judge_names(room: Room) -> None:
    """Nothing that is counted is counted under a stranger's name."""
    for name in room.server.edge.counts:
        assert re.fullmatch(r"[a-zA-Z0-9 -]{1,60}", name), name
    for session in room.server.registry:
        assert set(session.inflow.intake.rejected) <= REASONS
        assert session.ledger.faults == []


async def meet(text: str, scribe: Scribe) -> None:
    """A meeting in which ``text`` is said in every way there is."""
    data = text.encode()[:65_535]
    shown = json.dumps(text[:100_000])
    async with bridge(scribe) as room:
        control, audio = await room.control(), await room.audio()
        await talk(audio, data)
        speaker = json.dumps(data.decode(errors="replace"))
        await audio.send(f'{{"type": "PCMChunk", "speakerName": {speaker}, "audioData": ""}}')
        await audio.send(f'{{"type": {shown}, "audioData": {shown}}}')
        header = f'{{"speaker_id": {shown}, "speaker_name": {shown}}}'.encode()
        await audio.send(struct.pack(">I", len(header)) + header + bytes(1920))
        await audio.send(text)
        await audio.send(b"\2" + data)
        await control.send(encode_user_message(text, speaker_name=text))
        await control.send({"command": text, "type": text})
        await control.send({"type": "ready", "bot_id": text})
        await control.send(text)
        await control.send(data)
        await control.send({"command": "usermsg", "message": [text], text: text})
        await trio.sleep(1)
        judge_names(room)
        assert room.session.bot_id == "bot-1"


@each_nasty
@given(ANY_TEXT)
@quickly
def test_whatever_is_said_in_a_meeting_is_one_safe_line_of_the_log(text: str) -> None:
    scribe = Scribe()
    with listening() as log:
        trio.run(meet, text, scribe, clock=MockClock(autojump_threshold=0))
    log.judge()
    said = [event.text for event in scribe.heard if isinstance(event, UserMessage)]
    whole = text.strip()[:MESSAGE_CHARACTERS]
    assert said == ([whole] if whole else []), "the agent hears it as it is"
    kinds = [event.kind for event in scribe.heard if isinstance(event, UnknownMessage)]
    assert all(len(kind) <= MAX_KIND for kind in kinds)
    assert scribe.of(Utterance)


async def fail(text: str, scribe: Scribe) -> None:
    async with bridge(scribe) as room:
        control = await room.control()
        await control.send(encode_user_message(text))
        assert await control.closed() == (1011, "the agent failed")


@each_nasty
@given(ANY_TEXT.filter(lambda text: bool(text.strip())))
@quickly
def test_an_agent_that_raises_with_it_forges_no_line_either(text: str) -> None:
    with listening() as log:
        trio.run(fail, text, Scribe(fails=True), clock=MockClock(autojump_threshold=0))
    log.judge()
    assert [r.getMessage() for r in log.records if r.levelno >= logging.ERROR] == [
        "agent failed"
    ]


async def answers(meeting: Meeting) -> None:
    """The README's agent."""
    async for event in meeting.events(rate_hz=16_000):
        if isinstance(event, UserMessage):
            await meeting.chat(f"you wrote: {event.text}")


@pytest.mark.parametrize("agent", [echo, answers])
async def test_an_agent_that_answers_with_what_it_read_survives_a_megabyte(
    agent: Agent, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with bridge(agent) as room:
        control = await room.control()
        await control.send(encode_user_message("x" * 1_000_000))
        answer = (await control.next("sendmsg"))["message"]
        assert len(answer) < MESSAGE_CHARACTERS + 100
        await control.send(encode_user_message("still there?"))
        assert (await control.next("sendmsg"))["message"].endswith("still there?")
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


async def knock(text: str, hellos: list[str]) -> None:
    """Strangers who give ``text`` for an id, a path, a query and a token."""

    async def listener(meeting: Meeting) -> None:
        hellos.append(meeting.bot_id)
        try:
            async for _ in meeting.events():
                pass
        except SessionEndedError:
            pass

    path = quote_from_bytes(text.encode()[:4_000], safe="")
    async with bridge(listener) as room:
        for target in (f"/bridge?token={path}", "/bridge/audio"):
            channel = await room.connect(target)
            try:
                await channel.send(encode_hello(text))
                answer = json.loads(await channel.ws.get_message())
            except ConnectionClosed:
                assert (await channel.closed())[0] in (1003, 1008, 1009)
            else:
                assert answer["message"].endswith(f"channel bound to {text}")
        assert await room.refusal(f"/{path}/nowhere") in (404, 431)
        if 0 < len(path) < 1_000 and "/" not in text:
            channel = await room.connect(f"/{path}/bridge")
            await channel.send(encode_hello("somebody else"))
            assert (await channel.closed())[0] == 1008
        judge_names(room)


@each_nasty
@given(
    ANY_TEXT.filter(lambda text: "/" not in text) | st.sampled_from(["../..", "\u202e", "a b"])
)
@quickly
def test_an_id_or_a_path_is_refused_or_is_one_safe_line(text: str) -> None:
    hellos: list[str] = []
    with listening() as log:
        trio.run(partial(knock, text, hellos), clock=MockClock(autojump_threshold=0))
    log.judge()
    for bot_id in hellos:
        assert bot_id == text
        assert bot_id.isprintable()


@pytest.mark.parametrize("style", ["text", "json"])
def test_the_canary_of_this_file_sings(style: str) -> None:
    """A formatter that lets text through as it is would be noticed by `Log.judge`."""
    log = Log()
    record = logging.makeLogRecord({"msg": "agent heard\nforged", "levelname": "INFO"})
    log.emit(record)
    with pytest.raises(AssertionError):
        log.judge()
