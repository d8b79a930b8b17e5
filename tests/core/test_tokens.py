"""Tokens of one bot: what was minted comes back, and nothing else does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_bridge.errors import SettingsError
from trio_bridge.routes import read_route
from trio_bridge.tokens import BotToken, TokenError, mint_token, read_token, read_ttl

KEY, OTHER = "k" * 32, "o" * 32
NOW_S = 1_700_000_000
IN_A_PATH = set(string.ascii_letters + string.digits + "-._~")
"""RFC 3986's unreserved characters."""

bot_ids = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=128)
keys = st.text(min_size=32, max_size=64)
times = st.integers(0, 1 << 40)


@given(keys, bot_ids, times)
@example("\udcff" * 32, "bot-1", NOW_S)  # a key of odd bytes, as Python reads the environment
def test_what_was_minted_comes_back_and_is_safe_in_a_path(
    key: str, bot_id: str, until_s: int
) -> None:
    token = BotToken(bot_id, until_s)
    shown = mint_token(key, token)
    assert read_token(key, shown) == token
    assert set(shown) <= IN_A_PATH
    route = read_route(f"/t/{shown}/bridge")
    assert route is not None
    assert (route.token, route.bot_id) == (shown, None)


def test_the_format_is_the_one_that_is_documented() -> None:
    """A backend in another language may mint them: it needs no more than this."""

    def base64url(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    said = f"v1.{base64url(b'bot-1')}.{NOW_S}"
    mac = hmac.new(KEY.encode(), b"trio_bridge bot token\n" + said.encode(), hashlib.sha256)
    shown = f"{said}.{base64url(mac.digest())}"
    assert shown == mint_token(KEY, BotToken("bot-1", NOW_S))


@given(st.data(), bot_ids, times)
def test_any_changed_character_is_refused(
    data: st.DataObject, bot_id: str, until_s: int
) -> None:
    shown = mint_token(KEY, BotToken(bot_id, until_s))
    at = data.draw(st.integers(0, len(shown) - 1))
    other = data.draw(st.characters().filter(lambda character: character != shown[at]))
    with pytest.raises(TokenError, match=r"^a token is needed$"):
        read_token(KEY, shown[:at] + other + shown[at + 1 :])


def test_every_bit_counts() -> None:
    """Also those behind the end of the MAC, which base64 has room for and a decoder drops."""
    shown = mint_token(KEY, BotToken("bot-1", NOW_S))
    for at in range(len(shown)):
        for bit in range(7):
            changed = shown[:at] + chr(ord(shown[at]) ^ 1 << bit) + shown[at + 1 :]
            with pytest.raises(TokenError):
                read_token(KEY, changed)


@given(st.data(), bot_ids, times)
def test_what_is_cut_or_grown_is_refused(
    data: st.DataObject, bot_id: str, until_s: int
) -> None:
    shown = mint_token(KEY, BotToken(bot_id, until_s))
    cut = data.draw(st.integers(0, len(shown) - 1))
    more = data.draw(st.text(min_size=1, max_size=5))
    for changed in (shown[:cut], shown[cut + 1 :], shown + more, more + shown, shown * 2):
        with pytest.raises(TokenError):
            read_token(KEY, changed)


@given(st.text() | st.text(st.sampled_from("v1.=A_-")))
@example("")
@example("...")
@example("v1..0.")
@example("v1.Ym90LTE.x.y")
@example("\ud800.\udfff")
def test_any_text_is_refused_and_nothing_else_is_raised(shown: str) -> None:
    with pytest.raises(TokenError):
        read_token(KEY, shown)


@given(keys, keys, bot_ids, times)
def test_another_key_makes_nothing_that_this_one_takes(
    key: str, other: str, bot_id: str, until_s: int
) -> None:
    if key != other:
        with pytest.raises(TokenError):
            read_token(key, mint_token(other, BotToken(bot_id, until_s)))


@given(bot_ids, bot_ids)
def test_a_token_is_its_bots_alone(bot_id: str, other: str) -> None:
    token = BotToken(bot_id, NOW_S)
    token.check_bot(bot_id)
    if other != bot_id:
        with pytest.raises(TokenError, match=r"^the token is another bot's$"):
            token.check_bot(other)


@pytest.mark.parametrize(
    ("bot_id", "other"),
    [("bot-1", "Bot-1"), ("bot-1", "bot-1 "), ("é", "e\u0301"), ("1", "1.")],
)
def test_ids_that_look_alike_are_two(bot_id: str, other: str) -> None:
    with pytest.raises(TokenError):
        BotToken(bot_id, NOW_S).check_bot(other)


@given(times, st.floats(0, 1e6))
def test_it_expires_on_the_dot(until_s: int, before_s: float) -> None:
    token = BotToken("bot-1", until_s)
    if until_s - before_s < until_s:
        token.check_time(until_s - before_s)
    for late in (until_s, until_s + 0.001, until_s + before_s):
        with pytest.raises(TokenError, match=r"^the token has expired$"):
            token.check_time(late)


def test_the_mac_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def watch(one: bytes, two: bytes) -> bool:
        compared.append((one, two))
        return compare(one, two)

    monkeypatch.setattr(hmac, "compare_digest", watch)
    shown = mint_token(KEY, BotToken("bot-1", NOW_S))
    mac = shown.rpartition(".")[2].encode()
    read_token(KEY, shown)
    with pytest.raises(TokenError):
        read_token(KEY, shown[:-1] + "!")
    assert compared == [(mac, mac), (mac, mac[:-1] + b"!")]


# -- how long --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("90s", 90),
        ("45m", 2_700),
        ("2h", 7_200),
        ("7d", 604_800),
        ("366d", 31_622_400),
    ],
)
def test_a_time_has_one_unit(text: str, seconds: int) -> None:
    assert read_ttl(text) == seconds


@given(
    st.sampled_from(
        ["", "2", "h", "0s", "-1h", "2 h", "1.5h", "2h30m", "367d", "٢h", "2H", "1w"]
    )
    | st.text(max_size=8).filter(lambda text: text[-1:] not in set("smhd"))
)
def test_any_other_text_is_one_line_that_shows_the_form(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_ttl(text)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("--ttl: expected a time from 1s to 366d, as 45m, 2h or 7d")
