"""Reading what a server says to a bot. Sans-I/O: text in, one value or one error out.

Written from the protocol alone and kept apart from the server's own builders on purpose: two
halves that share code also share its bugs, and a simulator that agrees with a bug is useless.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable

import attrs
import numpy as np

from trio_bridge.errors import WireError
from trio_bridge.simulator.wavs import Int16

MAX_KIND = 64
"""Characters kept of an unknown command's name: it is the peer's text."""


class CommandFault(WireError):
    """The bot would skip this message; ``reason`` is a constant phrase, fit for counting."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@attrs.frozen(eq=False)
class PlayAudio:
    """``sendaudio``: speech for the microphone."""

    samples: Int16
    flaws: tuple[str, ...] = ()


@attrs.frozen
class PostChat:
    """``sendmsg``."""

    text: str
    flaws: tuple[str, ...] = ()


@attrs.frozen
class PostCaption:
    """``sendchat``; ``text`` is the whole line so far."""

    role: str
    text: str
    is_final: bool
    flaws: tuple[str, ...] = ()


@attrs.frozen
class StopAudio:
    """``interrupt`` with ``clear_audio_queue``."""

    flaws: tuple[str, ...] = ()


@attrs.frozen
class ShowImage:
    """``sendimg`` (then ``size_bytes``) or ``sendimg_url`` (then ``url``)."""

    size_bytes: int = 0
    url: str = ""
    flaws: tuple[str, ...] = ()


@attrs.frozen
class Acknowledged:
    """The optional answer to ``ready``."""

    flaws: tuple[str, ...] = ()


@attrs.frozen
class Unknown:
    """Well-formed and not known to a bot, which ignores it."""

    kind: str
    flaws: tuple[str, ...] = ()


BotCommand = PlayAudio | PostChat | PostCaption | StopAudio | ShowImage | Acknowledged | Unknown
"""``flaws`` are what a lenient bot overlooks and a strict one may not."""


def read_command(message: str | bytes, bot_id: str) -> BotCommand:
    """Read one message of the control channel, as the bot ``bot_id``.

    Raises:
        CommandFault: binary, no JSON object, a field missing or of the wrong kind, or meant
            for another bot. Nothing else is ever raised.
    """
    fields = _read_object(message)
    # Bridges answer ``ready`` with an ack named under either key.
    kind = fields.get("command", fields.get("type"))
    if not isinstance(kind, str):
        raise CommandFault("no command")
    if kind == "ack":
        return Acknowledged()
    flaws: tuple[str, ...] = ()
    addressee = fields.get("bot_id")
    if addressee is None:
        flaws = (f"{kind} without bot_id",) if kind in _READERS else ()
    elif addressee != bot_id:
        raise CommandFault("command for another bot")
    reader = _READERS.get(kind)
    if reader is None:
        return Unknown(kind[:MAX_KIND])
    return reader(fields, flaws)


def read_audio_reply(message: str | bytes) -> Acknowledged | Unknown:
    """Read what came back on the audio channel, where a server has nothing to say but an ack.

    Raises:
        CommandFault: binary, or no JSON object.
    """
    fields = _read_object(message)
    kind = fields.get("type", fields.get("command"))
    if kind == "ack":
        return Acknowledged()
    return Unknown(str(kind)[:MAX_KIND])


def _read_object(message: str | bytes) -> dict[str, object]:
    if not isinstance(message, str):
        raise CommandFault("binary message")
    try:
        fields = json.loads(message)
    except (ValueError, RecursionError) as exc:
        raise CommandFault("not JSON") from exc
    if not isinstance(fields, dict):
        raise CommandFault("JSON is not an object")
    return fields


def _read_audio(fields: dict[str, object], flaws: tuple[str, ...]) -> PlayAudio:
    # A bot resamples nothing, so anything else is heard at the wrong pitch or as noise.
    for name, wanted in _AUDIO_FORMAT.items():
        given = fields.get(name)
        if type(given) is not type(wanted) or given != wanted:
            raise CommandFault(f"sendaudio {name} is not {wanted}")
    pcm = _decode(fields, "sendaudio", "audiochunk")
    if len(pcm) % 2:
        raise CommandFault("sendaudio with half a sample")
    if not pcm:
        flaws = (*flaws, "sendaudio without audio")
    return PlayAudio(np.frombuffer(pcm, "<i2").astype(np.int16), flaws)


def _read_message(fields: dict[str, object], flaws: tuple[str, ...]) -> PostChat:
    texts = {name: fields[name] for name in ("message", "msg") if name in fields}
    if not texts:
        raise CommandFault("sendmsg without message and msg")
    for name in ("message", "msg"):
        if name not in texts:  # some platforms read one key, some the other
            flaws = (*flaws, f"sendmsg without {name}")
    values = list(texts.values())
    text = values[0]
    if not isinstance(text, str) or not isinstance(values[-1], str):
        raise CommandFault("sendmsg message is not text")
    if text != values[-1]:
        flaws = (*flaws, "sendmsg message and msg differ")
    return PostChat(text, flaws)


def _read_chat(fields: dict[str, object], flaws: tuple[str, ...]) -> PostCaption:
    role, text, is_final = fields.get("role"), fields.get("text"), fields.get("is_final")
    if role not in ("assistant", "user"):
        raise CommandFault("sendchat role is not assistant or user")
    if not isinstance(text, str):
        raise CommandFault("sendchat text is not text")
    if not isinstance(is_final, bool):
        raise CommandFault("sendchat is_final is not true or false")
    return PostCaption(str(role), text, is_final, flaws)


def _read_interrupt(fields: dict[str, object], flaws: tuple[str, ...]) -> StopAudio:
    if fields.get("action") != "clear_audio_queue":
        raise CommandFault("interrupt action is not clear_audio_queue")
    return StopAudio(flaws)


def _read_image(fields: dict[str, object], flaws: tuple[str, ...]) -> ShowImage:
    image = _decode(fields, "sendimg", "img")
    if not image.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")):
        flaws = (*flaws, "sendimg is neither JPEG nor PNG")
    return ShowImage(size_bytes=len(image), flaws=flaws)


def _read_image_url(fields: dict[str, object], flaws: tuple[str, ...]) -> ShowImage:
    url = fields.get("img_url")
    if not isinstance(url, str) or not url:
        raise CommandFault("sendimg_url img_url is not an address")
    return ShowImage(url=url, flaws=flaws)


def _decode(fields: dict[str, object], command: str, name: str) -> bytes:
    text = fields.get(name)
    if not isinstance(text, str):
        raise CommandFault(f"{command} {name} is not text")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise CommandFault(f"{command} {name} is not base64") from exc


_AUDIO_FORMAT = {
    "sample_rate": 48_000,
    "encoding": "pcm16",
    "channels": 1,
    "endianness": "little",
}

_READERS: dict[str, Callable[[dict[str, object], tuple[str, ...]], BotCommand]] = {
    "sendaudio": _read_audio,
    "sendmsg": _read_message,
    "sendchat": _read_chat,
    "interrupt": _read_interrupt,
    "sendimg": _read_image,
    "sendimg_url": _read_image_url,
}
