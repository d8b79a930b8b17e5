"""Paths and tokens: what a request asks for, and whether it may."""

from __future__ import annotations

import hmac
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.edge.head import Request
from trio_bridge.routes import Route, read_route, shown_token, token_is_good

Kind = Literal["audio", "control"]
SEGMENT = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=9)
NAMES = SEGMENT.filter(lambda text: text not in {"t", "bridge", "audio"})
ENDS: list[tuple[str, Kind]] = [("/bridge", "control"), ("/bridge/audio", "audio")]


def request_for(target: str) -> Request:
    return Request("GET", target, (), "127.0.0.1")


@pytest.mark.parametrize(("end", "kind"), ENDS)
@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize(
    ("before", "bot_id", "token"),
    [
        ("", None, None),
        ("/bot-1", "bot-1", None),
        ("/t/s3cret", None, "s3cret"),
        ("/bot-1/t/s3cret", "bot-1", "s3cret"),
        ("/t/s3cret/bot-1", "bot-1", "s3cret"),
        ("/t", "t", None),
        ("/t/t", None, "t"),
        ("/t/bridge", None, "bridge"),
        ("/t/audio", None, "audio"),
        ("/bridge", "bridge", None),
        ("/audio", "audio", None),
        ("/dd451299-1471-49ae-b407-c91541242748", "dd451299-1471-49ae-b407-c91541242748", None),
        ("/bot 1", "bot 1", None),
        ("/T/x", "no route", None),
    ],
)
def test_every_form_of_a_path_is_understood(
    end: str, kind: Kind, slash: str, before: str, bot_id: str | None, token: str | None
) -> None:
    expected = None if bot_id == "no route" else Route(kind, bot_id, token)
    assert read_route(before + end + slash) == expected


@given(NAMES, NAMES, st.sampled_from(ENDS), st.sampled_from(["", "/"]))
def test_any_id_and_any_token_come_back(
    bot_id: str, token: str, end: tuple[str, Kind], slash: str
) -> None:
    tail, kind = end
    tail += slash
    assert read_route(f"/{bot_id}{tail}") == Route(kind, bot_id, None)
    assert read_route(f"/t/{token}{tail}") == Route(kind, None, token)
    assert read_route(f"/{bot_id}/t/{token}{tail}") == Route(kind, bot_id, token)
    assert read_route(f"/t/{token}/{bot_id}{tail}") == Route(kind, bot_id, token)


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "//", "/audio", "/health", "/bridge/video", "/bridge/audio/x", "/Bridge",
        "/bridgeX", "/a/b/bridge", "/a/b/c/bridge", "/t/x/a/b/bridge", "/a/t/x/b/bridge",
        "/a//bridge", "/bridge//audio", "/t/x//bridge", "/t/x/t/y/z/bridge", "/bridge/t/x",
        "/bridge?token=x", "/bridge/audio/audio", "/bridge.", "/../bridge/x", "bridge audio",
    ],
)  # fmt: skip
def test_another_path_is_no_route(path: str) -> None:
    assert read_route(path) is None


@given(st.text(st.sampled_from("/tab"), max_size=12) | st.text(max_size=30))
def test_any_path_is_a_route_or_none(path: str) -> None:
    for end, kind in ENDS:
        route = read_route(path + end)
        if route is not None:
            assert route.kind == kind
            assert route.bot_id != ""
            assert "/" not in (route.bot_id or "")


def test_a_path_is_read_after_its_percent_signs_are() -> None:
    assert read_route(request_for("/bot%201/bridge").path) == Route("control", "bot 1", None)
    assert read_route(request_for("/bot%2F1/bridge").path) is None
    assert read_route(request_for("/t/%ff/bridge").path) == Route("control", None, "\ufffd")


def test_a_routes_repr_hides_the_token() -> None:
    assert "s3cret" not in repr(read_route("/t/s3cret/bot/bridge"))


def test_the_paths_token_counts_before_the_querys_and_that_before_the_headers() -> None:
    bare, with_token = Route("audio", None, None), Route("audio", None, "path")
    assert shown_token(with_token, {"token": "query"}, "Bearer header") == "path"
    assert shown_token(bare, {"token": "query"}, "Bearer header") == "query"
    assert shown_token(bare, {"tok": "x"}, "Bearer header") == "header"
    assert shown_token(bare, {}, None) is None


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer abc", "abc"),
        ("BEARER   abc  ", "abc"),
        ("Basic abc", None),
        ("abc", None),
        ("", None),
        ("Bearer", ""),
        ("Bearerabc", None),
    ],
)
def test_only_a_bearer_token_is_read_from_the_header(header: str, token: str | None) -> None:
    assert shown_token(Route("audio", None, None), {}, header) == token


def test_without_tokens_everybody_is_let_in() -> None:
    assert token_is_good(None, ())
    assert token_is_good("anything", ())


def test_with_tokens_only_one_of_them_is_let_in() -> None:
    accepted = ("alpha", "beta", "gämma")
    assert all(token_is_good(token, accepted) for token in accepted)
    for wrong in (None, "", "alph", "alphaa", "Alpha", " alpha", "alpha,beta", "\x00"):
        assert not token_is_good(wrong, accepted)


@given(st.none() | st.text(), st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_a_token_is_good_when_it_is_in_the_list(shown: str | None, tokens: list[str]) -> None:
    assert token_is_good(shown, tuple(tokens)) is (shown in tokens)


@pytest.mark.parametrize(
    ("shown", "accepted"), [("\udcff", "s3cret"), ("s3cret", "\udcff"), ("\udcff", "\udcff")]
)
def test_text_that_is_no_utf8_is_compared_like_any_other(shown: str, accepted: str) -> None:
    """A token from the environment may hold bytes that Python turns into lone surrogates."""
    assert token_is_good(shown, (accepted,)) is (shown == accepted)


def test_every_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    compare = hmac.compare_digest

    def watch(one: bytes, two: bytes) -> bool:
        compared.append(two)
        return compare(one, two)

    monkeypatch.setattr(hmac, "compare_digest", watch)
    assert token_is_good("a", ("a", "b", "c"))  # a hit ends the comparison no sooner
    assert compared == [b"a", b"b", b"c"]
