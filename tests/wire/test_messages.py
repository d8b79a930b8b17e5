"""Hello, control and commands: JSON both ways."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_bridge.errors import HandshakeError
from trio_bridge.wire.commands import (
    Ack,
    ClearAudio,
    Command,
    SendAudio,
    SendChat,
    SendImage,
    SendImageUrl,
    SendMessage,
)
from trio_bridge.wire.control import (
    MAX_KIND,
    ControlError,
    InterruptRequest,
    RepeatedReady,
    UnknownCommand,
    UserText,
    encode_interrupt,
    encode_user_message,
    parse_control,
)
from trio_bridge.wire.hello import MAX_BOT_ID, Hello, encode_hello, parse_hello

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
keys = st.sampled_from(["type", "command", "bot_id", "message", "text", "id", "is_final"])
values = st.sampled_from(["ready", "usermsg", "interrupt", "transcript"]) | json_values
messages = st.dictionaries(keys, values).map(json.dumps)


def ready(**fields: object) -> str:
    return json.dumps({"type": "ready", "bot_id": "b", **fields})


@given(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=MAX_BOT_ID))
def test_a_hello_round_trips(bot_id: str) -> None:
    assert parse_hello(encode_hello(bot_id)) == Hello(bot_id)


@given(st.text() | st.binary() | messages | json_values.map(json.dumps))
@example("[" * 100_000)
@example('{"type": "ready", "bot_id": "\\ud800"}')
def test_any_first_message_is_a_hello_or_a_handshake_error(message: str | bytes) -> None:
    try:
        hello = parse_hello(message)
    except HandshakeError as error:
        assert error.close_code in (1003, 1008)
        assert len(error.reason.encode()) <= 123  # what a Close frame can hold
    else:
        assert hello.bot_id.isprintable()
        assert 0 < len(hello.bot_id) <= MAX_BOT_ID
        hello.bot_id.encode()


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        (b"{}", 1003, "first message is binary, expected a ready message"),
        ("hi", 1003, "first message is not JSON, expected ready"),
        ("[]", 1003, "first message is JSON is not an object, expected ready"),
        ("{}", 1003, "first message is not of type ready"),
        (json.dumps({"type": "ready"}), 1003, "the ready message has no bot_id"),
        (ready(bot_id=7), 1003, "bot_id is not text"),
        (ready(bot_id=None), 1003, "bot_id is not text"),
        (ready(bot_id=" "), 1008, "bot_id is empty"),
        (ready(bot_id="x" * 129), 1008, "bot_id is longer than 128 characters"),
        (ready(bot_id="a\x1b[2J"), 1008, "bot_id has characters that cannot be printed"),
    ],
)
def test_a_bad_hello_says_what_is_wrong(message: str | bytes, code: int, reason: str) -> None:
    with pytest.raises(HandshakeError) as caught:
        parse_hello(message)
    assert (caught.value.close_code, caught.value.reason) == (code, reason)


@given(st.text() | st.binary() | messages | json_values.map(json.dumps))
@example("[" * 100_000)
def test_any_control_message_is_understood_or_a_control_error(message: str | bytes) -> None:
    try:
        parsed = parse_control(message)
    except ControlError as error:
        assert error.reason
    else:
        if isinstance(parsed, UserText):
            parsed.text.encode()
        if isinstance(parsed, UnknownCommand):
            assert len(parsed.kind) <= MAX_KIND


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_user_message_round_trips_stripped(text: str) -> None:
    assert parse_control(encode_user_message(text)) == UserText(text.strip())
    named = encode_user_message(text, speaker_name="Zoë")
    assert parse_control(named) == UserText(text.strip(), speaker_name="Zoë")


@pytest.mark.parametrize(
    ("fields", "parsed"),
    [
        ({"type": "usermsg", "text": "a"}, UserText("a")),
        ({"type": "transcript", "transcript": "a"}, UserText("a")),
        ({"type": "transcription.final", "text": "a", "final": True}, UserText("a")),
        (
            {"command": "usermsg", "message": "a", "speaker_name": "N", "speaker_id": "i"},
            UserText("a", "i", "N"),
        ),
        ({"command": "usermsg", "message": "a", "id": "7"}, UserText("a", message_id="7")),
        ({"command": "usermsg", "text": "a", "event_id": "8", "id": "7"},
         UserText("a", message_id="8")),
        ({"command": "usermsg", "text": "a", "is_final": False}, UserText("a", is_final=False)),
        ({"command": "usermsg"}, UserText("")),
        ({"type": "interrupt"}, InterruptRequest()),
        ({"type": "ready", "bot_id": "b"}, RepeatedReady("b")),
        ({"type": "ready"}, RepeatedReady("")),
        ({"command": "dance"}, UnknownCommand("dance")),
        ({"command": "d" * 100}, UnknownCommand("d" * MAX_KIND)),
        ({}, UnknownCommand("")),
    ],
)  # fmt: skip
def test_the_variants_seen_in_the_wild_are_read(
    fields: dict[str, object], parsed: object
) -> None:
    assert parse_control(json.dumps(fields)) == parsed


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\x01", "binary message on the control channel"),
        ("nope", "not JSON"),
        ("[1]", "JSON is not an object"),
        ('{"command": 7}', "command is not text"),
        ('{"command": "usermsg", "message": 7}', "message is not text"),
        ('{"type": "ready", "bot_id": 7}', "bot_id is not text"),
    ],
)
def test_a_bad_control_message_says_what_is_wrong(message: str | bytes, reason: str) -> None:
    with pytest.raises(ControlError) as caught:
        parse_control(message)
    assert caught.value.reason == reason


def test_an_interrupt_round_trips() -> None:
    assert parse_control(encode_interrupt()) == InterruptRequest()


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        (SendMessage("hi"), {"command": "sendmsg", "message": "hi", "msg": "hi"}),
        (
            SendChat("so far", is_final=False, role="user"),
            {"command": "sendchat", "role": "user", "text": "so far", "is_final": False},
        ),
        (
            SendChat("all", is_final=True),
            {"command": "sendchat", "role": "assistant", "text": "all", "is_final": True},
        ),
        (ClearAudio(), {"command": "interrupt", "action": "clear_audio_queue"}),
        (SendImage(b"\xff\xd8\xff"), {"command": "sendimg", "img": "/9j/"}),
        (
            SendImageUrl("https://x/y.png"),
            {"command": "sendimg_url", "img_url": "https://x/y.png"},
        ),
        (Ack("control"), {"command": "ack", "message": 'Control channel bound to b"1'}),
    ],
)
def test_a_command_is_the_documented_json(command: Command, fields: dict[str, object]) -> None:
    assert json.loads(command.encode('b"1')) == {"bot_id": 'b"1', **fields}


def test_the_audio_channels_ack_is_the_form_that_meetstream_uses_there() -> None:
    ack = json.loads(Ack("audio").encode("b1"))
    assert ack == {"type": "ack", "message": "Audio channel bound to b1"}


@given(st.binary(max_size=64), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_sendaudio_is_json_for_any_samples_and_any_id(pcm: bytes, bot_id: str) -> None:
    fields = {
        "command": "sendaudio",
        "bot_id": bot_id,
        "audiochunk": base64.b64encode(pcm).decode(),
        "sample_rate": 48_000,
        "encoding": "pcm16",
        "channels": 1,
        "endianness": "little",
    }
    text = SendAudio(pcm).encode(bot_id)
    assert json.loads(text) == fields
    assert text == json.dumps(fields), "the template is the encoder's own text"
