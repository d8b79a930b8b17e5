"""Tokens that open the door to one bot, until a time. Sans-I/O: the time is an argument.

A token is ``v1.BOT.UNTIL.MAC``: the bot's id and the MAC in base64url without padding, the time
in whole seconds since 1970, so that it can stand in a path as it is. The MAC is HMAC-SHA256 of
the text before it, as it stands there: one form of it is good, and no other that would decode
to the same.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

import attrs

from trio_bridge.errors import BridgeError, SettingsError

VERSION = "v1"
_PURPOSE = "trio_bridge bot token\n"
"""Keeps our MACs apart from any that somebody else makes with the same key."""
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_TTL = re.compile(r"([0-9]{1,9})([smhd])")
LONGEST_TTL_S = 366 * 86_400
"""Nothing takes a token back but another key: one for years is better a plain one."""


class TokenError(BridgeError):
    """A token that opens nothing; the text says why, and nothing that is in the token."""


@attrs.frozen
class BotToken:
    """What a genuine token says."""

    bot_id: str
    until_s: int
    """Seconds since 1970; from then on it is no good."""

    def check_time(self, now_s: float) -> None:
        """Refuse it from its very second on.

        Raises:
            TokenError: it has expired.
        """
        if now_s >= self.until_s:
            raise TokenError("the token has expired")

    def check_bot(self, bot_id: str) -> None:
        """Refuse it for anybody but its bot.

        Raises:
            TokenError: ``bot_id`` is another.
        """
        if bot_id != self.bot_id:
            raise TokenError("the token is another bot's")


def mint_token(key: str, token: BotToken) -> str:
    """Write ``token`` so that only who knows ``key`` could have: ASCII, safe in a path."""
    said = f"{VERSION}.{_to_base64(_bytes(token.bot_id))}.{token.until_s:d}"
    return f"{said}.{_mac(key, said)}"


def read_token(key: str, shown: str) -> BotToken:
    """What the token ``shown`` says; whether it is in time and for whom is not judged here.

    In a time that does not tell how nearly it was right.

    Raises:
        TokenError: it was not made with ``key``. Nothing else is ever raised.
    """
    said, _, mac = shown.rpartition(".")
    if not hmac.compare_digest(_bytes(_mac(key, said)), _bytes(mac)):
        raise TokenError("a token is needed")
    _, bot, until = said.split(".")  # nobody else writes what has this MAC
    return BotToken(_from_base64(bot), int(until))


def read_ttl(text: str) -> int:
    """Seconds of a time like ``90s``, ``45m``, ``2h`` or ``7d``.

    Raises:
        SettingsError: it is none, or no time that a token may have.
    """
    match = _TTL.fullmatch(text)
    seconds = int(match[1]) * _UNIT_S[match[2]] if match else 0
    if not 1 <= seconds <= LONGEST_TTL_S:
        raise SettingsError(
            f"--ttl: expected a time from 1s to 366d, as 45m, 2h or 7d, got {text!r}"
        )
    return seconds


def _mac(key: str, said: str) -> str:
    text = _bytes(_PURPOSE + said)
    return _to_base64(hmac.new(_bytes(key), text, hashlib.sha256).digest())


def _to_base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _from_base64(text: str) -> str:
    padded = text + "=" * (-len(text) % 4)
    return base64.urlsafe_b64decode(padded).decode("utf-8", "surrogatepass")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # whatever Python read, it has its bytes
