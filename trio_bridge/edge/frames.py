"""Cut a client's bytes into WebSocket frames and judge each (RFC 6455 §5), and encode a few of
our own. No I/O, no clock.

On a channel of audio, messages in one frame go straight to a callback: they are nearly all of
the traffic, and trio-websocket costs twice as much for each. Every other frame is validated
here and given back one at a time for trio-websocket, which therefore never sees an invalid
byte. The outcome depends on the bytes only, never on how the network cut them.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable

import numpy as np

from trio_bridge.edge.follower import Follower
from trio_bridge.edge.limits import EdgeLimits
from trio_bridge.errors import WireError

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

_FIN, _RESERVED, _MASKED = 0x80, 0x70, 0x80
_WHOLE_BINARY, _WHOLE_TEXT = _FIN | BINARY, _FIN | TEXT
_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013})
"""Registered codes that may be on the wire and that wsproto knows; 3000-4999 are free."""

_WORD = np.dtype("<u8")
SHORT_HEAD_BYTES = 4
"""Of a frame with a 16-bit length (RFC 6455 §5.2), before its key: any frame of real audio."""
_SHORT_START = SHORT_HEAD_BYTES + 4
"""Where its payload begins."""
_NONE = 1 << 62
"""A length that no frame has."""
_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


OnAudio = Callable[[bytes], Follower | None]
"""Is given a message's payload; may say who takes the frames that follow and are like it."""
OnText = Callable[[str], object]


class Violation(WireError):
    """The peer broke RFC 6455 or one of our limits; ``code`` is the close code it is told."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.code} {self.reason}"


def unmask(data: bytes, start: int, end: int) -> bytes:
    """Return ``data[start:end]`` unmasked with the four key bytes just before ``start``."""
    size = end - start
    key = data[start - 4 : start]
    lead = -size & 7
    if size < 32 or lead > start:  # below this numpy costs more than the loop
        return bytes([byte ^ key[i & 3] for i, byte in enumerate(data[start:end])])
    # In whole words from the end, so that up to seven bytes of the header come along.
    turned = (key * 3)[-lead & 3 :][:8]
    words = np.frombuffer(data, _WORD, (size + lead) >> 3, start - lead)
    plain: bytes = (words ^ np.uint64(int.from_bytes(turned, "little"))).tobytes()
    return plain[lead:]


def close_frame(violation: Violation) -> bytes:
    """Encode the Close a client would have sent to say what ``violation`` says."""
    body = violation.code.to_bytes(2, "big") + violation.reason.encode()[:123]
    return bytes([_FIN | CLOSE, _MASKED | len(body), 0, 0, 0, 0]) + body


def text_frame(text: str, *, masked: bool = False) -> bytes:
    """Encode a text message in one frame: one of ours, or as a client would (``masked``), with
    a key of zeros (RFC 6455 §5.2)."""
    payload, mask = text.encode(), _MASKED if masked else 0
    size = len(payload)
    if size < 126:
        head = bytes((_WHOLE_TEXT, mask | size))
    elif size < 1 << 16:
        head = bytes((_WHOLE_TEXT, mask | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((_WHOLE_TEXT, mask | 127)) + size.to_bytes(8, "big")
    return head + (bytes(4) if masked else b"") + payload


class Cutter:
    """One connection's inbound bytes: `feed` them, then `cut` until nothing is `pending`."""

    __slots__ = (
        "_control_at_s",
        "_control_per_s",
        "_data",
        "_decoder",
        "_follower",
        "_max_fragments",
        "_max_message_bytes",
        "_message_bytes",
        "_message_frames",
        "_need",
        "_on_audio",
        "_on_text",
        "_opcode",
        "_part",
        "_pos",
        "_usual_head",
        "_usual_length",
        "frames",
        "message_seen",
    )

    def __init__(self, limits: EdgeLimits) -> None:
        self.frames = 0
        """Frames consumed so far."""
        self.message_seen = False
        """A whole message was given back; before `arm` the caller stops here."""
        self._on_audio: OnAudio | None = None
        self._on_text: OnText | None = None
        self._max_message_bytes = limits.hello_bytes
        self._max_fragments = limits.fragments
        self._control_at_s: list[float] = []  # of the last second
        self._control_per_s = limits.control_per_s
        self._data, self._pos = b"", 0  # bytes not cut yet
        self._part, self._need = bytearray(), 0  # the beginning of one frame, and its length
        self._opcode = 0  # of the fragmented message under way
        self._message_bytes = self._message_frames = 0
        self._decoder = _Utf8Decoder()
        self._usual_head, self._usual_length = b"", _NONE  # of the last whole binary frame
        self._follower: Follower | None = None  # of those like it

    @property
    def pending(self) -> bool:
        """`cut` may find something without more bytes."""
        return self._pos < len(self._data)

    def arm(
        self, max_message_bytes: int, on_audio: OnAudio | None, on_text: OnText | None = None
    ) -> None:
        """Lift the first message's limit; from now on binary messages in one frame go to
        ``on_audio`` and texts in one frame to ``on_text``, where there is one."""
        self._max_message_bytes = max_message_bytes
        self._on_audio, self._on_text = on_audio, on_text
        self._forget_usual()

    @property
    def hears(self) -> bool:
        """Audio goes to a callback: this is a channel of audio."""
        return self._on_audio is not None

    @property
    def calls(self) -> bool:
        """Some messages go to a callback, and others do not."""
        return self._on_audio is not None or self._on_text is not None

    def disarm(self) -> None:
        """The end is under way: nothing goes to the callbacks any more."""
        self._on_audio = self._on_text = None
        self._forget_usual()

    def _forget_usual(self) -> None:
        self._usual_length, self._follower = _NONE, None

    def hear_usual(self, data: bytes, turn: int, now_s: float) -> bytes:
        """Give away the frames at the beginning of the next ``data`` that are like the last
        one, ``turn`` at most; returns what is left, for `feed`.

        To the follower that ``on_audio`` named for them, or to ``on_audio``. A shorter way
        through `feed` and `cut`, for nearly every read; also for one that begins in the middle
        of a frame, as all do of a peer whose frames have piled up.

        Raises:
            Exception: whatever ``on_audio`` raised; its frame is consumed.
        """
        on_audio = self._on_audio
        if on_audio is None or self._opcode:
            return data
        head, length = self._usual_head, self._usual_length
        if self._part:
            if self._need != length or len(self._part) + len(data) < length:
                return data
            data, self._part = bytes(self._part) + data, bytearray()
        follower = self._follower
        size = len(data)
        if length == size and data.startswith(head):  # as nearly always
            self.frames += 1
            if follower is None or not follower.take(data, now_s):
                self._hear_anew(on_audio, data)
            return b""
        start = 0
        for end in range(length, min(size, length * turn) + 1, length):
            if not data.startswith(head, start):
                break
            self.frames += 1
            frame = data[start:end]
            if follower is None or not follower.take(frame, now_s):
                follower = self._hear_anew(on_audio, frame)
            start = end
        return data[start:] if start else data

    @property
    def usual(self) -> tuple[Follower, int] | None:
        """Who takes the next bytes if they are one frame like the last, and how many those
        are; None where `hear_usual` must see them."""
        if self._follower is None or self._part or self._opcode:
            return None
        return self._follower, self._usual_length

    def _hear_anew(self, on_audio: OnAudio, frame: bytes) -> Follower | None:
        """Give ``frame`` to ``on_audio``, which names who takes those that are like it."""
        self._follower = None
        self._follower = follower = on_audio(unmask(frame, _SHORT_START, len(frame)))
        return follower

    @property
    def uncut(self) -> bytes:
        """What was fed and not cut."""
        return bytes(self._part) + self._data[self._pos :]

    def clear(self) -> None:
        """Forget every byte that was not cut."""
        self._data, self._pos, self._part = b"", 0, bytearray()

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream. Everything `pending` must have been cut before."""
        if not self._part:
            self._data, self._pos = data, 0
            return
        # A bytearray grows in place: as bytes, one-byte segments would cost a copy each.
        self._part += data
        if len(self._part) >= self._need:
            self._data, self._pos, self._part = bytes(self._part), 0, bytearray()

    def cut(self, now_s: float, *, turn: int, closing: bool = False) -> bytes | None:
        """Consume frames; return the first one that trio-websocket must see.

        None when more bytes are needed, or when ``turn`` frames were handled (then still
        `pending`: let other tasks run first). ``closing`` says that our Close is under way:
        then only the peer's Close is given back and the rest is judged and dropped.

        Raises:
            Violation: the peer broke a rule; nothing after it may be used.
            Exception: whatever ``on_audio`` raised; its frame is consumed.
        """
        data, pos, limit = self._data, self._pos, self._max_message_bytes
        length = len(data)
        on_audio, on_text = self._on_audio, self._on_text
        if closing or self._opcode:
            on_audio = on_text = None
        while True:
            have = length - pos
            if have < 2:
                need = 2
                break
            first, second = data[pos], data[pos + 1]
            size = second & 0x7F
            if size < 126:
                start = pos + 6
            elif size == 126:
                if have < 4:
                    need = 4
                    break
                size = data[pos + 2] << 8 | data[pos + 3]
                start = pos + 8
                if size < 126:
                    raise Violation(1002, "length not minimal")
            else:
                if have < 10:
                    need = 10
                    break
                size = int.from_bytes(data[pos + 2 : pos + 10], "big")
                start = pos + 14
                if size < 1 << 16 or size >> 63:
                    raise Violation(1002, "length not minimal")
            end = start + size
            if second & _MASKED and (
                (first == _WHOLE_BINARY and on_audio is not None)
                or (first == _WHOLE_TEXT and on_text is not None)
            ):
                if size > limit:
                    raise Violation(1009, "message too big")
                if end > length:
                    need = end - pos
                    break
                self.frames += 1
                self._pos = end
                payload = unmask(data, start, end)
                if on_text is not None and first == _WHOLE_TEXT:
                    on_text(_text(payload))
                elif on_audio is not None:
                    self._forget_usual()
                    follower = on_audio(payload)
                    if start - pos == _SHORT_START and self._on_audio is not None:
                        self._usual_head, self._usual_length = data[pos : pos + 4], end - pos
                        self._follower = follower
                pos = end
            else:
                self._check_header(first, second, size)
                if end > length:
                    need = end - pos
                    break
                self._pos = end
                self.frames += 1
                frame = data[pos:end]
                self._check_frame(frame, start - pos, now_s)
                if not closing or first & 0x0F == CLOSE:
                    if end == length:
                        self._data, self._pos = b"", 0
                    return frame
                pos = end
            turn -= 1
            if turn <= 0 and pos < length:
                return None
        # What is left is less than a frame: keep it where appending is cheap.
        if have:
            self._part, self._need = bytearray(memoryview(data)[pos:]), need
        self._data, self._pos = b"", 0
        return None

    def _check_header(self, first: int, second: int, size: int) -> None:
        """Judge what the header alone can tell, before the payload is waited for."""
        opcode = first & 0x0F
        if first & _RESERVED:
            raise Violation(1002, "reserved bit set")
        if not second & _MASKED:
            raise Violation(1002, "frame not masked")
        if opcode > PONG or BINARY < opcode < CLOSE:
            raise Violation(1002, "unknown opcode")
        if opcode >= CLOSE:
            if not first & _FIN:
                raise Violation(1002, "fragmented control frame")
            if size > 125:
                raise Violation(1002, "control frame too long")
            return
        if opcode and self._opcode:
            raise Violation(1002, "expected a continuation frame")
        if not opcode and not self._opcode:
            raise Violation(1002, "unexpected continuation frame")
        if self._message_bytes + size > self._max_message_bytes:
            raise Violation(1009, "message too big")
        if self._message_frames >= self._max_fragments:
            raise Violation(1008, "too many fragments")

    def _check_frame(self, frame: bytes, start: int, now_s: float) -> None:
        """Judge one complete frame, whose payload begins at ``start``."""
        opcode, fin = frame[0] & 0x0F, bool(frame[0] & _FIN)
        if opcode >= PING:
            times = [at_s for at_s in self._control_at_s if now_s - at_s < 1.0]
            if len(times) >= self._control_per_s:
                raise Violation(1008, "too many control frames")
            self._control_at_s = [*times, now_s]
            return
        if opcode == CLOSE:
            _check_close(unmask(frame, start, len(frame)))
            return
        if opcode:
            self._opcode = opcode
        if self._opcode == TEXT:
            try:
                self._decoder.decode(unmask(frame, start, len(frame)), fin)
            except UnicodeDecodeError:
                raise Violation(1007, "text is not UTF-8") from None
        self._message_bytes += len(frame) - start
        self._message_frames += 1
        if fin:
            self._opcode = self._message_bytes = self._message_frames = 0
            self._decoder.reset()
            self.message_seen = True


def _text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise Violation(1007, "text is not UTF-8") from None


def _check_close(payload: bytes) -> None:
    if not payload:
        return
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not (code in _CLOSE_CODES or 3000 <= code <= 4999):
        raise Violation(1002, "invalid close code")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise Violation(1007, "close reason is not UTF-8") from None
