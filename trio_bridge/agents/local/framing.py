"""Messages on a child process's pipes: length, number, kind, body. No I/O, no clock."""

from __future__ import annotations

import struct

import attrs

from trio_bridge.agents.local.errors import AgentError

HEAD = struct.Struct(">IIB")
"""Length of the body in bytes, number of the request, kind."""

MAX_BODY_BYTES = 16 << 20
"""Eight minutes of 16 kHz speech: more than an utterance or an answer can be."""

OK = 0
FAILED = 1
"""Kinds. The body of a failure is its text, of anything else what the child is for."""


class FramingError(AgentError):
    """What came out of the pipe is not ours: the child must be replaced."""


@attrs.frozen
class Message:
    """A request (kind `OK`) or its reply, which has its number."""

    number: int
    kind: int
    body: bytes


def encode(message: Message) -> bytes:
    """The bytes of one message.

    Raises:
        FramingError: the body is longer than `MAX_BODY_BYTES`.
    """
    if len(message.body) > MAX_BODY_BYTES:
        raise FramingError(f"a message of {len(message.body)} bytes: expected {MAX_BODY_BYTES}")
    return HEAD.pack(len(message.body), message.number, message.kind) + message.body


def decode_head(head: bytes) -> tuple[int, int, int]:
    """Length of the body, number and kind from the `HEAD.size` bytes before it.

    Raises:
        FramingError: not a head of ours.
    """
    length, number, kind = HEAD.unpack(head)
    if length > MAX_BODY_BYTES or kind not in {OK, FAILED}:
        raise FramingError("unexpected bytes from a child process")
    return length, number, kind


class Decoder:
    """Cuts a stream of bytes into messages, however it arrives."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def feed(self, data: bytes | bytearray) -> list[Message]:
        """The messages that ``data`` completed.

        Raises:
            FramingError: the stream is not ours; the decoder is of no more use.
        """
        self._waiting += data
        messages = []
        while len(self._waiting) >= HEAD.size:
            length, number, kind = decode_head(bytes(self._waiting[: HEAD.size]))
            end = HEAD.size + length
            if len(self._waiting) < end:
                break
            messages.append(Message(number, kind, bytes(self._waiting[HEAD.size : end])))
            del self._waiting[:end]
        return messages
