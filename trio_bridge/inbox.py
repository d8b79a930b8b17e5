"""What people type to the agent: each message once, and only when it is whole."""

from __future__ import annotations

from collections import OrderedDict

import attrs

from trio_bridge.audio.speakers import Speaker
from trio_bridge.meeting import UserMessage
from trio_bridge.wire.control import UserText

MESSAGE_ID_CHARACTERS = 256
"""A longer id is none: nobody needs it, and it would be remembered."""
MESSAGE_CHARACTERS = 16 << 10
"""Of one message; no platform's chat takes as many. An agent that answers with what it read,
and a few words, may so do it: a message of its own has twice the room."""
MESSAGE_IDS = 512
"""User messages remembered so that a repeated one is not answered twice."""


@attrs.define(eq=False)
class Inbox:
    """The user messages of one meeting."""

    forgotten: int = attrs.field(default=0, init=False)
    """Ids that came too long ago to be remembered."""
    _seen_ids: OrderedDict[str, None] = attrs.field(factory=OrderedDict, init=False)

    def accept(self, said: UserText) -> UserMessage | None:
        """What the agent is to hear of ``said``; None if it is empty, partial or repeated."""
        message_id = said.message_id if len(said.message_id) <= MESSAGE_ID_CHARACTERS else ""
        if not said.text or not said.is_final or message_id in self._seen_ids:
            return None
        if message_id:
            self._seen_ids[message_id] = None
            if len(self._seen_ids) > MESSAGE_IDS:
                self._seen_ids.popitem(last=False)
                self.forgotten += 1
        named = said.speaker_id or said.speaker_name
        speaker = Speaker.called(said.speaker_id, said.speaker_name) if named else None
        return UserMessage(said.text[:MESSAGE_CHARACTERS], speaker)
