"""The bot's reading of commands: what the documents say, and a fault for everything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.simulator.small_server import sendaudio, tone
from trio_bridge.simulator.commands import (
    Acknowledged,
    CommandFault,
    PlayAudio,
    PostCaption,
    PostChat,
    ShowImage,
    StopAudio,
    Unknown,
    read_audio_reply,
    read_command,
)


def command(kind: str, **fields: object) -> str:
    return json.dumps({"command": kind, "bot_id": "b", **fields})


def test_audio_is_read_to_the_sample() -> None:
    read = read_command(sendaudio("b", tone(0.1)), "b")
    assert isinstance(read, PlayAudio)
    assert np.array_equal(read.samples, tone(0.1))
    assert read.flaws == ()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (command("sendmsg", message="a", msg="a"), PostChat("a")),
        (command("sendmsg", message="a"), PostChat("a", ("sendmsg without msg",))),
        (command("sendmsg", msg="a"), PostChat("a", ("sendmsg without message",))),
        (
            command("sendmsg", message="a", msg="b"),
            PostChat("a", ("sendmsg message and msg differ",)),
        ),
        (
            command("sendchat", role="assistant", text="a", is_final=True),
            PostCaption("assistant", "a", True),
        ),
        (command("interrupt", action="clear_audio_queue"), StopAudio()),
        (
            '{"command": "interrupt", "action": "clear_audio_queue"}',
            StopAudio(("interrupt without bot_id",)),
        ),
        (command("sendimg", img="/9j/AA=="), ShowImage(size_bytes=4)),
        (
            command("sendimg", img="AAAA"),
            ShowImage(size_bytes=3, flaws=("sendimg is neither JPEG nor PNG",)),
        ),
        (command("sendimg_url", img_url="https://x"), ShowImage(url="https://x")),
        (command("ack", message="bound"), Acknowledged()),
        ('{"type": "ack"}', Acknowledged()),
        (command("dance" * 100), Unknown(("dance" * 100)[:64])),
        ('{"command": "dance"}', Unknown("dance")),
    ],
)
def test_commands_are_read_as_the_documents_say(message: str, expected: object) -> None:
    assert read_command(message, "b") == expected


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"{}", "binary message"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "JSON is not an object"),
        ("{}", "no command"),
        ('{"command": 1}', "no command"),
        (sendaudio("other", tone(0.1)), "command for another bot"),
        (sendaudio("b", tone(0.1), sample_rate=24_000), "sendaudio sample_rate is not 48000"),
        (sendaudio("b", tone(0.1), sample_rate="48000"), "sendaudio sample_rate is not 48000"),
        (sendaudio("b", tone(0.1), channels=True), "sendaudio channels is not 1"),
        (sendaudio("b", tone(0.1), encoding="mp3"), "sendaudio encoding is not pcm16"),
        (sendaudio("b", tone(0.1), endianness="big"), "sendaudio endianness is not little"),
        (sendaudio("b", tone(0.1), audiochunk=None), "sendaudio audiochunk is not text"),
        (sendaudio("b", tone(0.1), audiochunk="AAA"), "sendaudio audiochunk is not base64"),
        (sendaudio("b", tone(0.1), audiochunk="\u20ac"), "sendaudio audiochunk is not base64"),
        (sendaudio("b", tone(0.1), audiochunk="AAAA"), "sendaudio with half a sample"),
        (command("sendmsg"), "sendmsg without message and msg"),
        (command("sendmsg", message=1, msg=1), "sendmsg message is not text"),
        (command("sendchat", role="bot"), "sendchat role is not assistant or user"),
        (command("sendchat", role="user", text=1), "sendchat text is not text"),
        (
            command("sendchat", role="user", text="a", is_final=1),
            "sendchat is_final is not true or false",
        ),
        (command("interrupt"), "interrupt action is not clear_audio_queue"),
        (command("sendimg", img="?"), "sendimg img is not base64"),
        (command("sendimg_url"), "sendimg_url img_url is not an address"),
    ],
)
def test_a_broken_command_is_a_fault_with_a_constant_reason(message: Any, reason: str) -> None:
    with pytest.raises(CommandFault) as caught:
        read_command(message, "b")
    assert caught.value.reason == reason


def test_an_empty_chunk_is_a_flaw_and_no_fault() -> None:
    read = read_command(sendaudio("b", tone(0)), "b")
    assert read.flaws == ("sendaudio without audio",)


def test_the_audio_channel_answers_with_an_ack_or_something_unknown() -> None:
    assert read_audio_reply('{"type": "ack"}') == Acknowledged()
    assert read_audio_reply('{"command": "ack"}') == Acknowledged()
    assert read_audio_reply('{"a": 1}') == Unknown("None")
    with pytest.raises(CommandFault):
        read_audio_reply(b"x")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
kinds = st.sampled_from(
    ["sendaudio", "sendmsg", "sendchat", "interrupt", "sendimg", "sendimg_url", "ack"]
)
names = st.sampled_from(
    ["audiochunk", "message", "msg", "role", "text", "is_final", "action", "img", "img_url",
     "bot_id", "sample_rate"]
)  # fmt: skip


@given(
    st.text(max_size=50)
    | st.binary(max_size=10)
    | st.builds(
        lambda kind, fields: json.dumps({**fields, "command": kind}),
        kinds | values,
        st.dictionaries(names, values, max_size=6),
    )
)
def test_any_message_is_a_command_or_a_fault(message: Any) -> None:
    readers: list[Callable[[Any], object]] = [
        partial(read_command, bot_id="b"),
        read_audio_reply,
    ]
    for read in readers:
        try:
            read(message)
        except CommandFault as fault:
            assert fault.reason
