"""Commands to the bot, as values that know their JSON (MeetStream docs, "meeting control").

Every command carries ``bot_id``: the oldest examples omit it, nothing refuses it.
"""

from __future__ import annotations

import base64
import json
from typing import Literal

import attrs

_PCM_FORMAT = (
    ', "sample_rate": 48000, "encoding": "pcm16", "channels": 1, "endianness": "little"}'
)

Role = Literal["assistant", "user"]


@attrs.frozen
class SendAudio:
    """Speech for the bot's virtual microphone."""

    pcm: bytes
    """PCM16-LE, 48 000 Hz, mono: the bot resamples nothing, another rate plays too slowly."""

    def encode(self, bot_id: str) -> str:
        # A template, because base64 needs no escaping: 7 us for 100 ms, with json.dumps 24.
        # pybase64 would save 5 us a chunk and a start kept for each meeting 1, which is too
        # little for a dependency or a cache.
        chunk = base64.b64encode(self.pcm).decode("ascii")
        return (
            f'{{"command": "sendaudio", "bot_id": {json.dumps(bot_id)}, "audiochunk": "{chunk}"'
            + _PCM_FORMAT
        )


@attrs.frozen
class SendMessage:
    """A message in the meeting's chat."""

    text: str

    def encode(self, bot_id: str) -> str:
        # Platforms read different keys; with only one of them the message is lost on some.
        return _encode("sendmsg", bot_id, message=self.text, msg=self.text)


@attrs.frozen
class SendChat:
    """A transcript line. ``text`` is cumulative: the line so far, not what was added."""

    text: str
    is_final: bool
    role: Role = "assistant"

    def encode(self, bot_id: str) -> str:
        return _encode(
            "sendchat", bot_id, role=self.role, text=self.text, is_final=self.is_final
        )


@attrs.frozen
class ClearAudio:
    """Throw away the speech that the bot has queued. Only Google Meet's bot does it."""

    def encode(self, bot_id: str) -> str:
        return _encode("interrupt", bot_id, action="clear_audio_queue")


@attrs.frozen
class SendImage:
    """A JPEG or PNG as the bot's camera picture."""

    image: bytes

    def encode(self, bot_id: str) -> str:
        return _encode("sendimg", bot_id, img=base64.b64encode(self.image).decode("ascii"))


@attrs.frozen
class SendImageUrl:
    """The same by a public address."""

    url: str

    def encode(self, bot_id: str) -> str:
        return _encode("sendimg_url", bot_id, img_url=self.url)


@attrs.frozen
class Ack:
    """Our answer to ``ready``, in the two forms that MeetStream's own bridge uses."""

    channel: Literal["control", "audio"]

    def encode(self, bot_id: str) -> str:
        text = f"{self.channel.capitalize()} channel bound to {bot_id}"
        if self.channel == "control":
            return _encode("ack", bot_id, message=text)
        return json.dumps({"type": "ack", "message": text})


Command = SendAudio | SendMessage | SendChat | ClearAudio | SendImage | SendImageUrl | Ack


def _encode(command: str, bot_id: str, **fields: str | bool) -> str:
    return json.dumps({"command": command, "bot_id": bot_id, **fields})
