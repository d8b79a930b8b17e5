"""Every published or constructed wire example, as a test of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trio_bridge.wire.commands import SendAudio
from trio_bridge.wire.control import InterruptRequest, UserText, parse_control
from trio_bridge.wire.frames import BAD_UTF8, ODD_BYTE, FrameError, decode_audio
from trio_bridge.wire.hello import Hello, encode_hello, parse_hello

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "frames.json").read_text()
)
BINARY = VECTORS["binary"]
TEXT = {vector["name"]: vector for vector in VECTORS["text"]}


@pytest.mark.parametrize("vector", BINARY, ids=[v["name"] for v in BINARY])
def test_a_binary_vector_decodes_as_it_says(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    if vector["valid"] is False:
        with pytest.raises(FrameError) as caught:
            decode_audio(data)
        assert caught.value.reason == vector["reason"]
        return
    frame = decode_audio(data)
    expected = vector["expect"]
    assert frame.speaker_id == expected["speaker_id"]
    assert frame.speaker_name == expected["speaker_name"]
    assert frame.pcm.hex() == expected["pcm_hex"]
    flaws = {"odd PCM": (ODD_BYTE,), "invalid U": (BAD_UTF8,)}
    mended = vector["valid"] == "tolerate"
    assert frame.flaws == next((f for k, f in flaws.items() if k in vector["name"]), ())
    assert bool(frame.flaws) == mended


def test_the_text_vectors_are_the_messages_they_are_called() -> None:
    assert set(TEXT) == {
        "handshake",
        "legacy PCMChunk",
        "usermsg",
        "interrupt",
        "sendaudio (outbound) 20 ms of silence",
    }
    assert parse_hello(TEXT["handshake"]["text"]) == Hello("bot_abc123")
    assert encode_hello("bot_abc123") == TEXT["handshake"]["text"]
    legacy = decode_audio(TEXT["legacy PCMChunk"]["text"])
    assert legacy.speaker_name == TEXT["legacy PCMChunk"]["expect"]["speaker_name"]
    assert legacy.pcm.hex() == TEXT["legacy PCMChunk"]["expect"]["pcm_hex"]
    assert parse_control(TEXT["usermsg"]["text"]) == UserText("Hello")
    assert parse_control(TEXT["interrupt"]["text"]) == InterruptRequest()


def test_our_sendaudio_is_the_vectors_letter_by_letter() -> None:
    expected = TEXT["sendaudio (outbound) 20 ms of silence"]["text"]
    assert SendAudio(bytes(1920)).encode("bot_abc123") == expected
