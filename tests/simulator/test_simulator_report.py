"""Expectations, the report in its two forms, the people's frames and the scenario's checks."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.simulator.small_server import tone, voice
from trio_bridge.config import Settings
from trio_bridge.simulator import (
    Expectations,
    Reconnect,
    Report,
    Scenario,
    SimulatorError,
    SpeakerPart,
    UserMessage,
)
from trio_bridge.simulator.arguments import make_parser
from trio_bridge.simulator.events import Stamps
from trio_bridge.simulator.playback import PlaybackQueue
from trio_bridge.simulator.recording import Recording
from trio_bridge.simulator.report import (
    AnswerReport,
    CloseReport,
    GapReport,
    InterruptReport,
    LeadReport,
    count,
    dump_reports,
    measure_lead,
    printable,
)
from trio_bridge.simulator.voices import Room, load_voices

GOOD = Report(
    server="ws://h:1",
    bot_id="b",
    platform="meet",
    form="binary",
    layout="mixed",
    duration_s=10.0,
    frames_sent=500,
    frames_lost=0,
    sent_s=10.0,
    late_ms=1.0,
    heard_s=4.0,
    received_s=5.0,
    cleared_s=1.0,
    unplayed_s=0.0,
    first_audio_ms=400.0,
    gaps=GapReport(1, 50.0, 50.0),
    lead=LeadReport(100.0, 250.0, 300.0, 10.0),
    answers=(AnswerReport(2.0, 4.0, 1, True, 400.0),),
    interrupts=(
        InterruptReport(4.0, True, 20.0, 120.0, 100.0, 80.0),
        InterruptReport(6.0, False, None, 900.0, 900.0, 0.0),
    ),
    speakers=(),
    chats=("the time is 12:00",),
    captions=(("user", "what time is it"),),
    partial_captions=2,
    images=1,
    acks=2,
    unknown_commands={"dance": 1},
    faults={"not JSON": 2},
    closes=(
        CloseReport("audio", 1006, "", "server", 3.0),
        CloseReport("audio", 1000, "", "bot", 10.0),
        CloseReport("control", 1000, "", "bot", 10.0),
    ),
    saved="heard.wav",
)
SILENT = attrs.evolve(
    GOOD, heard_s=0.0, first_audio_ms=None, lead=None, answers=(), interrupts=(), chats=()
)
BROKEN = attrs.evolve(GOOD, closes=(CloseReport("control", 1011, "agent\n", "server", 1.0),))


@pytest.mark.parametrize(
    ("expected", "report", "line"),
    [
        ({"heard_s": 4.0}, GOOD, None),
        ({"heard_s": 4.5}, GOOD, "heard 4.00 s of the bot, expected 4.5 s or more"),
        ({"max_gap_ms": 50}, GOOD, None),
        ({"max_gap_ms": 49}, GOOD, "the longest gap was 50 ms, expected at most 49 ms"),
        ({"max_gap_ms": 49}, SILENT, "the longest gap could not be measured"),
        ({"max_lead_ms": 300}, GOOD, None),
        ({"max_lead_ms": 299}, GOOD, "the lead was 300 ms"),
        ({"max_lead_ms": 299}, SILENT, "the lead could not be measured: nothing was heard"),
        ({"max_tail_ms": 120}, GOOD, None),
        ({"max_tail_ms": 119}, GOOD, "the tail was 120 ms"),
        ({"max_tail_ms": 119}, SILENT, "there was no interrupt"),
        ({"first_audio_ms": 400}, GOOD, None),
        ({"first_audio_ms": 399}, GOOD, "the first audio was 400 ms"),
        ({"first_audio_ms": 399}, SILENT, "no answer to speech"),
        ({"chats": (re.compile(r"\d\d:\d\d"),)}, GOOD, None),
        ({"chats": (re.compile(r"^12"),)}, GOOD, "no chat message matches '^12'"),
        ({"close_code": 1000}, GOOD, None),
        ({"close_code": 1001}, GOOD, "the bot closed audio with 1000, expected 1001"),
        ({}, BROKEN, "the server closed control with 1011 agent"),
        ({"close_code": 1011}, BROKEN, None),
    ],
)
def test_an_expectation_fails_with_a_line_that_says_why(
    expected: dict[str, Any], report: Report, line: str | None
) -> None:
    failures = Expectations(**expected).failures(report)
    if line is None:
        assert failures == []
    else:
        assert any(failure.startswith(line) or line in failure for failure in failures)
        assert not any("\n" in failure for failure in failures)


def test_without_interrupts_of_ours_the_tail_is_that_of_the_commands() -> None:
    report = attrs.evolve(GOOD, interrupts=GOOD.interrupts[1:])
    assert Expectations(max_tail_ms=800).failures(report) == [
        "the tail was 900 ms, expected at most 800 ms"
    ]


def test_the_report_is_json_for_one_bot_and_a_list_for_more() -> None:
    one = json.loads(dump_reports([GOOD]))
    assert one["lead"] == {"min_ms": 100, "mean_ms": 250, "max_ms": 300, "drift_ms": 10}
    assert one["interrupts"][0]["tail_ms"] == 120
    assert one["faults"] == {"not JSON": 2}
    assert json.loads(dump_reports([GOOD, GOOD])) == [one, one]


def test_the_text_names_what_was_measured_and_stays_printable() -> None:
    text = attrs.evolve(GOOD, chats=("\x1b[2Jboo\n",)).to_text()
    for piece in (
        "4.00 s in 1 answer (",
        "400 ms after the end of speech",
        "100 / 250 / 300 ms",
        "answered after 20 ms",
        "the server's",
        "caption   user: what time is it",
        "not JSON: 2",
        "control by bot: 1000",
        "saved     heard.wav",
    ):
        assert piece in text
    assert "\x1b" not in text
    assert (
        "never answered"
        in attrs.evolve(
            GOOD, interrupts=(InterruptReport(1.0, True, None, 0.0, None, 0.0),)
        ).to_text()
    )
    no_drift = attrs.evolve(GOOD, lead=LeadReport(1, 1, 1, None))
    assert "drift unknown: no answer much longer than 1 s was free" in no_drift.to_text()
    no_drift = attrs.evolve(no_drift, interrupts=())
    assert "drift unknown: no answer was much longer than 1 s" in no_drift.to_text()
    two = attrs.evolve(GOOD, answers=GOOD.answers * 2)
    assert "4.00 s in 2 answers (" in two.to_text()
    assert "lead" not in SILENT.to_text()


def answer(queue: PlaybackQueue, at_s: float, later_s: float = 0.0) -> None:
    """Three seconds, 0.3 s ahead, of which the last chunks come ``later_s`` later."""
    queue.enqueue(tone(0.3), at_s)
    for index in range(1, 28):
        queue.enqueue(tone(0.1), at_s + 0.1 * index + (later_s if index > 15 else 0.0))


def drift_ms(queue: PlaybackQueue, interrupts_s: Sequence[float] = ()) -> float | None:
    lead = measure_lead(queue, interrupts_s)
    assert lead is not None
    return lead.drift_ms


def test_an_interrupt_is_no_drift() -> None:
    queue = PlaybackQueue()
    answer(queue, 10.0, later_s=0.05)
    assert drift_ms(queue) == pytest.approx(50, abs=1)
    queue.cut(12.8)
    assert drift_ms(queue) is None
    answer(queue, 20.0, later_s=0.05)
    assert drift_ms(queue) == pytest.approx(50, abs=1)
    (_, second) = queue.answers
    assert drift_ms(queue, [second.start_s - 0.05]) is None
    assert drift_ms(queue, [second.start_s - 5.0, second.start_s + 5.0]) is not None


def test_demands_are_counted_one_for_each_flag() -> None:
    assert Expectations().demands == 0
    assert Expectations(heard_s=0, close_code=1000, chats=(re.compile("a"),) * 2).demands == 4


def test_a_time_that_was_passed_is_told_after_the_line() -> None:
    stamps = Stamps(places=2)
    assert stamps.stamp(1.0) == (1.0, "")
    assert stamps.stamp(2.001) == (2.0, "")
    assert stamps.stamp(1.999) == (2.0, "")  # looks the same
    assert stamps.stamp(1.5) == (2.0, " (at 1.50 s)")
    assert stamps.stamp(3.0) == (3.0, "")


def test_counts_are_bounded_whatever_a_server_invents() -> None:
    counts: dict[str, int] = {}
    for index in range(1000):
        count(counts, f"kind {index}")
    assert len(counts) == 101
    assert counts["..."] == 900
    assert printable("x" * 300) == "x" * 200 + "…"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"url": "localhost:80"}, "is not an address"),
        ({"url": "ftp://h"}, "is not an address"),
        ({"url": "ws://h:port"}, "the address cannot be read"),
        ({"url": "ws://[::1"}, "the address cannot be read"),
        ({"bot_id": ""}, "the bot id is empty"),
        ({"frame_ms": 0}, "a frame of 0 ms"),
        ({"audio_path": "bridge"}, "does not begin with /"),
        ({"headers": (("bad name", "x"),)}, "HTTP header"),
        ({"headers": (("x", "a\r\nb"),)}, "HTTP header"),
        ({"interrupts_s": (-1.0,)}, "an interrupt's time is -1 s"),
        ({"messages": (UserMessage("a", float("nan")),)}, "a message's time is nan s"),
        ({"reconnects": (Reconnect("audio", 1.0, pause_s=-1),)}, "a reconnect's pause"),
        ({"duration_s": -1.0}, "the duration is -1 s"),
        ({"speed": -1.0}, "the speed is -1"),
    ],
)
def test_a_scenario_that_cannot_be_run_is_not_made(fields: Any, reason: str) -> None:
    with pytest.raises(SimulatorError, match=reason):
        Scenario(**{"url": "ws://h", **fields})


def test_the_bot_has_a_name_that_a_server_takes_for_its_own() -> None:
    assert Scenario(url="ws://h").bot_name in Settings().bot_name
    assert make_parser().parse_args(["ws://h"]).bot_name in Settings().bot_name


def test_the_address_is_split_and_its_secrets_are_not_shown() -> None:
    scenario = Scenario(url="wss://user:pw@host/t/token/?token=x", headers=(("A", "pw"),))
    assert scenario.where == "wss://host"
    assert scenario.address == ("host", 443, True)
    assert scenario.resource("audio") == "/t/token/bridge/audio?token=x"
    assert Scenario(url="http://h:8").address == ("h", 8, False)
    assert not re.search("pw|t/token", repr(scenario))


parts = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4000), st.integers(0, 4000), st.floats(0, 0.9)),
    max_size=5,
)


@given(parts, st.sampled_from([1, 7, 20, 50]))
def test_frames_put_together_are_the_voices_whatever_their_length(
    plan: list[tuple[int, int, int, float]], frame_ms: int
) -> None:
    speakers = tuple(
        SpeakerPart(f"S{who}", f"u{who}", np.full(length, level, np.float32), start / 48_000)
        for who, start, length, level in plan
    )
    voices = load_voices(Scenario(url="ws://h", speakers=speakers))
    size = frame_ms * 48
    total = -(-max((v.end for v in voices), default=0) // size)
    recorded = list(Recording().blocks(voices, total * size))
    everything = np.concatenate(recorded) if recorded else np.zeros(0, np.int16)
    mixed = Room(voices, "mixed", size, "bot", "nobody")
    sent = b"".join(f.pcm for index in range(total) for f in mixed.frames(index))
    assert sent == everything.tobytes()
    separate = Room(voices, "separate", size, "bot", "nobody")
    frames = [separate.frames(index) for index in range(total)]
    assert all(len(tick) == len({who for who, *_ in plan}) for tick in frames)


def test_the_loudest_has_the_label_and_a_pause_does_not_lose_it() -> None:
    sound = np.concatenate([voice(0.1), np.zeros(9600, np.float32), voice(0.1)])
    scenario = Scenario(
        url="ws://h",
        speakers=(SpeakerPart("Ann", "1", sound), SpeakerPart("Ben", "2", voice(0.05, 0.9))),
    )
    room = Room(load_voices(scenario), "mixed", 2400, "Robin", "nobody")
    labels = [room.frames(index)[0].speaker_name for index in range(9)]
    assert labels == ["Ben"] + ["Ann"] * 7 + ["NoSpeaker"]
    own = tone(0.05, 0.5)
    assert room.frames(8, own)[0].speaker_name == "Robin"
    assert room.frames(6, tone(0.05, 0.1))[0].speaker_name == "Ann"
    separate = Room(load_voices(scenario), "separate", 2400, "Robin", "nobody")
    assert [f.speaker_name for f in separate.frames(0, own)] == ["Ann", "Ben", "Robin"]
    assert separate.frames(0, own)[2].pcm == own.tobytes()


def test_a_recording_keeps_what_follows_together_and_nothing_overlaps() -> None:
    recording = Recording()
    recording.add(10, np.full(5, 1, np.int16), follows=False)
    recording.add(16, np.full(5, 2, np.int16), follows=True)
    recording.add(12, np.full(5, 3, np.int16), follows=False)
    (block,) = recording.blocks((), 30)
    assert block.tolist() == [0] * 10 + [1] * 5 + [2] * 5 + [3] * 5 + [0] * 5
