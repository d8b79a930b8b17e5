"""Plain HTTP on the port that also takes WebSockets: capped bodies, keep-alive, HEAD."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import attrs
import h11
import trio

from trio_bridge.edge.head import HeaderLines, Refused, Request
from trio_bridge.edge.limits import EdgeLimits
from trio_bridge.edge.transport import linger

_BODY_READ_BYTES = 16 << 10
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
_BODILESS = frozenset({204, 304})

_log = logging.getLogger("trio_bridge.edge")


@attrs.frozen
class Response:
    """One HTTP answer; ``content-length`` is added on the way out."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: HeaderLines = ()


OnHttp = Callable[[Request], Awaitable[Response]]


async def read_body(
    stream: trio.abc.Stream, conn: h11.Connection, request: Request, limits: EdgeLimits
) -> Request:
    """Return ``request`` with its body, read under ``body_bytes`` and ``body_s``.

    Raises:
        Refused: 413 too large or in too many pieces, 408 too slow, 400 not a body.
    """
    parts: list[bytes] = []
    room = limits.body_bytes
    announced = request.get(b"content-length")
    if announced is not None and int(announced) > room:  # h11 has checked that it is digits
        raise Refused(413, "body too large")
    with trio.move_on_after(limits.body_s) as scope:
        try:
            if conn.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await stream.send_all(conn.send(go_on))
            while not isinstance(event := conn.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Data):
                    room -= len(event.data)
                    if room < 0:
                        raise Refused(413, "body too large")
                    parts.append(bytes(event.data))
                    if len(parts) > limits.body_pieces:
                        raise Refused(413, "body in too many pieces")
                    if len(parts) % limits.slow_turn == 0:  # a read may hold thousands
                        await trio.lowlevel.checkpoint()
                else:
                    conn.receive_data(bytes(await stream.receive_some(_BODY_READ_BYTES)))
        except h11.RemoteProtocolError as exc:
            raise Refused(400, "bad body") from exc
    if scope.cancelled_caught:
        raise Refused(408, "body too slow")
    return attrs.evolve(request, body=b"".join(parts)) if parts else request


async def serve_request(
    stream: trio.abc.Stream,
    conn: h11.Connection,
    request: Request,
    on_http: OnHttp,
    limits: EdgeLimits,
    counts: Counter[str],
) -> bool:
    """Read the body, ask ``on_http``, answer; True if another request may follow.

    An exception of ``on_http`` is logged once and answered 500; one that takes longer than
    ``answer_s`` is cancelled and answered 503.

    Raises:
        Refused: by `read_body` only; a ``Refused`` of ``on_http`` is sent like any answer.
    """
    request = await read_body(stream, conn, request, limits)
    response = Response(503, b"too slow\n")
    with trio.move_on_after(limits.answer_s):
        try:
            response = await on_http(request)
        except Refused as refusal:
            response = refusal_response(refusal)
        except Exception:  # the answer is its owner's code: only this request may suffer
            counts["error"] += 1
            _log.exception("http answer failed", extra={"peer": request.peer})
            response = Response(500, b"internal error\n")
    with trio.move_on_after(limits.answer_s) as scope:
        try:
            await send_response(stream, conn, response, request.method)
        except h11.LocalProtocolError:  # the answer cannot be said in HTTP; none of it was sent
            counts["error"] += 1
            _log.exception("http answer failed", extra={"peer": request.peer})
            broken = Response(500, b"internal error\n")
            await send_response(stream, conn, broken, request.method)
    if scope.cancelled_caught:
        return False
    if conn.our_state is h11.DONE and conn.their_state is h11.DONE:
        conn.start_next_cycle()
        return True
    await linger(stream, limits)
    return False


async def send_refusal(
    stream: trio.abc.Stream, conn: h11.Connection, refusal: Refused, limits: EdgeLimits
) -> None:
    """Answer with ``refusal``, within ``close_s``; the caller closes the stream."""
    with trio.move_on_after(limits.close_s):
        if conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = refusal_response(refusal)
            method = "HEAD" if refusal.to_head else "GET"
            await send_response(stream, conn, response, method, last=True)
    await linger(stream, limits)


def refusal_response(refusal: Refused) -> Response:
    return Response(refusal.status, f"{refusal.reason}\n".encode(), headers=refusal.headers)


async def send_response(
    stream: trio.abc.Stream,
    conn: h11.Connection,
    response: Response,
    method: str,
    *,
    last: bool = False,
) -> None:
    """Write ``response`` in one piece, so that a small one is a single packet.

    Raises:
        h11.LocalProtocolError: it is not valid HTTP; nothing was sent.
    """
    headers = [*response.headers]
    if response.status not in _BODILESS:
        headers.append(("content-type", response.content_type))
        headers.append(("content-length", str(len(response.body))))
    if last:
        headers.append(("connection", "close"))
    # The constructor is what refuses a header with a line break, before `conn` moves on.
    reason = _PHRASES.get(response.status, b"")
    head = h11.Response(status_code=response.status, headers=headers, reason=reason)
    data = conn.send(head)
    if response.body and method != "HEAD" and response.status not in _BODILESS:
        data += conn.send(h11.Data(data=response.body))
    data += conn.send(h11.EndOfMessage())
    await stream.send_all(data)
