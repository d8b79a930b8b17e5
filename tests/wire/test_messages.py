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
from trio_bridge.wire.frames import FrameError, decode_audio
from trio_bridge.wire.hello import MAX_BOT_ID, Hello, encode_hello, parse_hello
from trio_bridge.wire.objects import read_object

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


NOT_JSON = {
    "4,000 brackets": "[" * 4_000,
    "4,000 closed brackets": "[" * 2_000 + "]" * 2_000,
    "4,000 braces": '{"a":' * 800,
    "large numbers": '{"x": [' + ("9" * 4_290 + ",") * 200 + "9" * 4_400 + "]}",
    "101 digits": '{"command": "x", "n": ' + "9" * 101 + "}",
    "a million digits": '{"command": ' + "9" * 1_000_000 + "}",
    "a string without an end": '{"command": "' + "x" * 1_000_000,
    "an escape without an end": '{"command": "' + "\\" * 999_999,
    "a line break in a long string": '{"command": "a\n' + "x" * 5_000 + '"}',
    "NaN": '{"command": NaN}',
    "NaN in the depth": '{"command": [[{"a": -Infinity}]]}',
    "half a character": "\ud800",
    "a mark at the beginning": "\ufeff{}",
    "NUL": "{\0}",
    "nothing": "",
}
TOO_MANY = {
    "a million empty lists": '{"x": [' + "[]," * 340_000 + "0]}",
    "a million empty strings": '{"x": [' + '"",' * 340_000 + "0]}",
    "90,000 keys": "{" + ",".join(f'"{i}":0' for i in range(90_000)) + "}",
    "nested lists": '{"x": [' + ("[" * 500 + "]" * 500 + ",") * 1_000 + "0]}",
    "100,000 brackets": "[" * 100_000,
    "100,000 closed brackets": "[" * 100_000 + "]" * 100_000,
}
HOSTILE = [
    *((text, "not JSON") for text in NOT_JSON.values()),
    *((text, "too many values") for text in TOO_MANY.values()),
    (json.dumps({"command": "x" * (1 << 20)}), "too long"),
]
"""Texts that a parser of JSON chokes on; the second kind takes it 50 to 600 ms, in which
nobody would be served."""


@pytest.mark.parametrize(
    ("text", "reason"), HOSTILE, ids=[*NOT_JSON, *TOO_MANY, "more than 1 MiB"]
)
def test_hostile_json_is_one_typed_error(text: str, reason: str) -> None:
    with pytest.raises(ControlError) as control:
        parse_control(text)
    assert control.value.reason == reason
    with pytest.raises(HandshakeError, match=reason):
        parse_hello(text)
    with pytest.raises(FrameError, match=reason):
        decode_audio(text)
    header = b"{" + text.encode(errors="replace")
    with pytest.raises(FrameError):
        decode_audio(len(header).to_bytes(4, "big") + header)


def test_a_transcript_of_600_words_with_their_times_is_read() -> None:
    words = [{"word": "hello", "start": 1.25, "end": 1.5, "confidence": 0.9}] * 600
    message = {"command": "transcript", "text": "hello " * 600, "words": words}
    assert parse_control(json.dumps(message)) == UserText(("hello " * 600).strip())


def test_a_megabyte_of_text_with_quotes_and_brackets_is_read() -> None:
    text = ('"[{, \\' * 150_000)[: 1 << 18]
    assert parse_control(encode_user_message(text)) == UserText(text)


def test_a_number_of_100_digits_is_one() -> None:
    assert read_object('{"n": ' + "9" * 100 + "}") == {"n": 10**100 - 1}
    assert read_object('{"n": -1.5e300}') == {"n": -1.5e300}


def test_bytes_must_be_utf_8() -> None:
    assert read_object('{"ä": "ö"}'.encode()) == {"ä": "ö"}
    for data in ('{"a": 1}'.encode("utf-16"), b'{"\xff": 1}', b"\xef\xbb\xbf{}"):
        with pytest.raises(ValueError, match="not JSON"):
            read_object(data)


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
