"""The server's books, read from its log, against what the bots know they sent. Pure.

Each meeting's last line, ``meeting ended``, has them: frames taken, samples at every station
(in seconds, rounded to the millisecond), and whether the equations between them hold.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

ROUNDED_S = 0.00051
"""By which a figure of the log may be off, and a little for sums of floats."""


@attrs.frozen
class Account:
    """What one bot sent and got, over all its meetings."""

    frames: int
    perhaps_unread: int
    """Of the frames, sent just before their socket was taken over by a newer one."""
    heard_s: float
    """Seconds of speech that came in."""


@attrs.define
class Books:
    """All meetings of a run, added up."""

    meetings: int = 0
    frames: int = 0
    """That the server took."""
    sent: int = 0
    """That the bots sent."""
    unread: int = 0
    """Frames that are missing and may be, see `Account.perhaps_unread`."""
    starved: int = 0
    """Times that a pacer found its bot dry in the middle of speech."""
    dropped_s: float = 0.0
    """Audio that the agents were too slow for."""
    errors: list[str] = attrs.field(factory=list)
    """What is not exact, a line for each."""
    alarms: Counter[str] = attrs.field(factory=Counter)
    """Warnings and errors in the log, by event."""


def audit(lines: Iterable[str], accounts: Mapping[str, Account], frame_ms: int) -> Books:
    """Compare the log's lines with the bots' ``accounts`` by bot_id."""
    books = Books()
    frames: Counter[str] = Counter()
    spoken_s: defaultdict[str, float] = defaultdict(float)
    meetings: Counter[str] = Counter()
    for line in lines:
        record = _record(line)
        if record.get("level") in {"WARNING", "ERROR", "CRITICAL"}:
            books.alarms[str(record.get("event"))] += 1
        if record.get("event") != "meeting ended":
            continue
        bot_id = str(record["bot_id"])
        meetings[bot_id] += 1
        frames[bot_id] += record["frames"]
        spoken_s[bot_id] += record["sent_s"]
        books.starved += record["starved"]
        books.dropped_s += record["dropped_s"]
        books.errors += _faults(bot_id, record, frame_ms)
    for bot_id, account in accounts.items():
        missing = account.frames - frames[bot_id]
        if not 0 <= missing <= account.perhaps_unread:
            books.errors.append(
                f"{bot_id}: {account.frames} frames sent, {frames[bot_id]} taken, at most "
                f"{account.perhaps_unread} may be missing"
            )
        books.unread += missing
        if abs(spoken_s[bot_id] - account.heard_s) > ROUNDED_S * max(1, meetings[bot_id]):
            books.errors.append(
                f"{bot_id}: {spoken_s[bot_id]:.3f} s of speech sent, {account.heard_s:.3f} s "
                "came"
            )
        books.sent += account.frames
    strangers = meetings.keys() - accounts.keys()
    books.errors += [f"{bot_id}: nobody's meeting" for bot_id in sorted(strangers)]
    books.meetings, books.frames = meetings.total(), frames.total()
    return books


def _faults(bot_id: str, record: Mapping[str, Any], frame_ms: int) -> list[str]:
    found = []
    if record["ledger"] != "balanced":
        found.append(f"{bot_id}: {record['ledger']}")
    if record["rejected"]:
        found.append(f"{bot_id}: rejected {record['rejected']}")
    expected_s = record["frames"] * frame_ms / 1000
    if abs(record["received_s"] - expected_s) > 2 * ROUNDED_S:
        found.append(f"{bot_id}: {expected_s} s in frames, {record['received_s']} s in samples")
    return found


def _record(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {}  # not the log's: a warning of the interpreter, say
    return record if isinstance(record, dict) else {}
