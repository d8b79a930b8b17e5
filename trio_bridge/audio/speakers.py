"""Who spoke, and whether it was ourselves."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

NO_SPEAKER = "NoSpeaker"
"""The name MeetStream gives audio that its platform could not attribute (normal at first)."""

DEFAULT_BOT_NAMES = ("MeetStream Agent", "Meeting Assistant")
"""The names MeetStream's own bridge treats as the bot's."""

LONGEST_TEXT = 256
"""Characters of an id or name that are kept. The wire has room for 65,535 bytes of each, and a
meeting remembers hundreds of speakers; platforms stop at about a hundred characters."""


@attrs.frozen
class Speaker:
    """A participant. Names are shown; ids tell people apart, where the platform gives them."""

    id: str
    name: str

    @classmethod
    def called(cls, speaker_id: str, name: str) -> Speaker:
        """Whom a stranger's message names: what is too long is cut to `LONGEST_TEXT`."""
        return cls(speaker_id[:LONGEST_TEXT], name[:LONGEST_TEXT])

    @property
    def key(self) -> str:
        """What tells this speaker from others: the id, or the name where there is none."""
        return self.id or self.name

    @property
    def may_start_turn(self) -> bool:
        """False for audio that the platform could not attribute: it is kept, but it is noise
        of the room or the last syllable of somebody, not a beginning."""
        return NO_SPEAKER not in (self.id, self.name)

    def __str__(self) -> str:
        return self.name or self.id or "somebody"


def _fold(name: str) -> str:
    return name.strip().casefold()


def _all(ids: Iterable[str]) -> frozenset[str]:
    return frozenset(ids)


def _fold_all(names: Iterable[str]) -> frozenset[str]:
    return frozenset(map(_fold, names))


@attrs.frozen
class OwnVoice:
    """Tells the bot's own voice by exact id, or exact name with case and ends folded.

    Never by a part of the name: ``ai`` mutes Craig and Aisha, ``bot`` mutes Abbott.
    """

    names: frozenset[str] = attrs.field(default=DEFAULT_BOT_NAMES, converter=_fold_all)
    ids: frozenset[str] = attrs.field(default=(), converter=_all)

    def __contains__(self, speaker: Speaker) -> bool:
        return speaker.id in self.ids or _fold(speaker.name) in self.names
