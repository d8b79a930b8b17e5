"""The command line of ``simulate``: its flags, their units, and how their values are read."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from trio_bridge.simulator.scenario import BOT_NAME, Reconnect, SpeakerPart, UserMessage

_EPILOG = """\
examples:
  simulate ws://127.0.0.1:8000 --speaker Ann=question.wav@1 --expect-heard 1
  simulate ws://127.0.0.1:8000 --speaker Ann#user_7=a.wav --speaker Ben=b.wav@4.5 \\
      --interrupt 12 --platform zoom --expect-max-tail-ms 500 --save heard.wav

exit code: 0 done; 1 an expectation failed, or the server closed with an error;
2 a file, a setting or the server could not be used. Ctrl-C leaves properly, with a report."""

MOST_BOTS = 1000


def make_parser() -> argparse.ArgumentParser:
    """The parser; its ``type=`` functions already give values of the scenario."""
    parser = _Parser(
        prog="python -m trio_bridge simulate",
        usage="%(prog)s [options] URL",
        description="A MeetStream bot that works against any MeetStream server.",
        epilog=_EPILOG,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "url",
        metavar="URL",
        help="the server: ws://HOST:PORT or wss://; http:// and https:// mean the same",
    )
    _add_meeting(parser.add_argument_group("what happens in the meeting"))
    _add_bot(parser.add_argument_group("the bot and its platform"))
    _add_connection(parser.add_argument_group("the connections"))
    _add_output(parser.add_argument_group("what comes out"))
    _add_expectations(parser.add_argument_group("expectations (exit code 1 if one fails)"))
    return parser


def _add_meeting(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--speaker",
        action="append",
        default=[],
        type=parse_speaker,
        metavar="NAME[#ID]=FILE[@SECONDS]",
        help="who says which WAV file when (repeatable)",
    )
    group.add_argument(
        "--usermsg",
        action="append",
        default=[],
        type=parse_message,
        metavar="TEXT[@SECONDS]",
        help="send a usermsg (repeatable)",
    )
    group.add_argument(
        "--interrupt",
        action="append",
        default=[],
        type=_seconds,
        metavar="SECONDS",
        help="send an interrupt (repeatable)",
    )
    group.add_argument(
        "--reconnect",
        action="append",
        default=[],
        type=parse_reconnect,
        metavar="control|audio:clean|abrupt|overlap@SECONDS",
        help="lose a channel and open it again (repeatable)",
    )
    group.add_argument(
        "--duration",
        type=_seconds,
        metavar="SECONDS",
        help="leave after this long (default: --tail after the last event above, when the bot"
        " is silent)",
    )
    _number(group, "--tail", _seconds, 5.0, "SECONDS", "stay on after the last event")
    _number(group, "--linger", _seconds, 60.0, "SECONDS", "wait longer while the bot speaks")
    _number(
        group, "--speed", _ratio, 1.0, "FACTOR", "of the events above; 0 is as fast as possible"
    )


def _add_bot(group: argparse._ArgumentGroup) -> None:
    _choice(group, "--form", ("binary", "headed", "legacy"), "form of the audio frames")
    _choice(
        group,
        "--layout",
        ("mixed", "separate"),
        "one stream under the loudest speaker's name, or one stream per speaker",
    )
    _number(group, "--frame-ms", _frame_ms, 20, "MS", "length of a frame, 1 to 2000")
    _choice(
        group, "--silence-label", ("nobody", "last"), "whose name silence bears in mixed audio"
    )
    _choice(
        group,
        "--platform",
        ("meet", "zoom", "teams"),
        "only meet clears its queue on interrupt",
    )
    group.add_argument(
        "--echo-own-voice",
        action="store_true",
        help="what the bot plays comes back under the bot's own name",
    )
    group.add_argument("--bot-id", metavar="ID", help="(default: a new UUID)")
    group.add_argument(
        "--bot-name",
        default=BOT_NAME,
        metavar="NAME",
        help="must be one of the server's --bot-name, or it answers its own echo"
        " (default: %(default)s)",
    )
    _number(
        group,
        "--bots",
        _bots,
        1,
        "N",
        f"so many at once, ids ending in -1, -2, ..., to {MOST_BOTS}",
    )


def _add_connection(group: argparse._ArgumentGroup) -> None:
    for name, default in (("--control-path", "/bridge"), ("--audio-path", "/bridge/audio")):
        group.add_argument(
            name, default=default, metavar="PATH", help="after the URL's (default: %(default)s)"
        )
    group.add_argument(
        "--prefix-bot-id", action="store_true", help="put /ID before the paths, as live bots do"
    )
    group.add_argument(
        "--header",
        action="append",
        default=[],
        type=parse_header,
        metavar="'NAME: VALUE'",
        help="send with the upgrade requests (repeatable)",
    )
    group.add_argument(
        "--token", metavar="TOKEN", help="short for --header 'Authorization: Bearer TOKEN'"
    )
    _choice(group, "--order", ("control", "audio", "together"), "which channel comes first")


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--save", type=Path, metavar="FILE.wav", help="write what the meeting heard"
    )
    group.add_argument("--report", type=Path, metavar="FILE", help="write the report as JSON")
    group.add_argument(
        "--quiet", action="store_true", help="print nothing but errors and failed expectations"
    )


def _add_expectations(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--expect-heard",
        type=_seconds,
        metavar="SECONDS",
        help="at least so much of the bot is heard",
    )
    for name, what in (
        ("--expect-max-gap-ms", "no longer silence within an answer"),
        ("--expect-max-tail-ms", "no more is heard after an interrupt"),
        ("--expect-max-lead-ms", "never more queued"),
        ("--expect-first-audio-ms", "answers begin so soon after the end of speech"),
    ):
        group.add_argument(name, type=_milliseconds, metavar="MS", help=what)
    group.add_argument(
        "--expect-chat",
        action="append",
        default=[],
        type=parse_pattern,
        metavar="REGEX",
        help="found in a chat message (repeatable)",
    )
    group.add_argument(
        "--expect-close",
        type=_close_code,
        metavar="CODE",
        help="both channels end with this code",
    )


def parse_speaker(text: str) -> SpeakerPart:
    """``NAME[#ID]=FILE[@SECONDS]``; the file is not read here, an absent id stays empty.

    Raises:
        argparse.ArgumentTypeError: it has another shape.
    """
    who, equals, what = text.partition("=")
    name, _, speaker_id = who.partition("#")
    path, at_s = _split_time(what)
    before, _, after = what.rpartition("@")
    if before.lower().endswith(".wav"):  # so what follows is meant as a time, and no name
        at_s = _seconds(after)
    if not (equals and name and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME[#ID]=FILE[@SECONDS]")
    return SpeakerPart(name, speaker_id, path, at_s)


def parse_message(text: str) -> UserMessage:
    """``TEXT[@SECONDS]``."""
    return UserMessage(*_split_time(text))


def parse_reconnect(text: str) -> Reconnect:
    """``CHANNEL:HOW@SECONDS``.

    Raises:
        argparse.ArgumentTypeError: it has another shape.
    """
    match = re.fullmatch(r"(control|audio):(clean|abrupt|overlap)@([0-9.]+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not control|audio:clean|abrupt|overlap@SECONDS"
        )
    channel, how, at = match.groups()
    # Both are what the pattern let through.
    return Reconnect(channel, _seconds(at), how)  # type: ignore[arg-type]


def parse_header(text: str) -> tuple[str, str]:
    """``NAME: VALUE``.

    Raises:
        argparse.ArgumentTypeError: there is no colon. The text is not repeated: it may be
            half a secret.
    """
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError("a header is 'NAME: VALUE'")
    return name.strip(), value.strip()


def parse_pattern(text: str) -> re.Pattern[str]:
    """A regular expression.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        return re.compile(text)
    except re.error as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {exc}") from exc


def _split_time(text: str) -> tuple[str, float]:
    """What is before and after the last ``@``; all of it and 0 if no number is after it."""
    before, at, after = text.rpartition("@")
    try:
        return (before, _seconds(after)) if at else (text, 0.0)
    except argparse.ArgumentTypeError:
        return text, 0.0


def _seconds(text: str) -> float:
    return _zero_or_more(text, "a number of seconds")


def _milliseconds(text: str) -> float:
    return _zero_or_more(text, "a number of milliseconds")


def _ratio(text: str) -> float:
    return _zero_or_more(text, "a number")


def _zero_or_more(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


def _frame_ms(text: str) -> int:
    return _whole(text, 2000)


def _bots(text: str) -> int:
    return _whole(text, MOST_BOTS)


def _close_code(text: str) -> int:
    return _whole(text, 4999, least=1000)


def _whole(text: str, most: int, least: int = 1) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text} is not from {least} to {most}")
    return value


def _number(
    group: argparse._ArgumentGroup,
    name: str,
    read: Callable[[str], float],
    default: float,
    metavar: str,
    what: str,
) -> None:
    group.add_argument(
        name,
        type=read,
        default=default,
        metavar=metavar,
        help=f"{what} (default: {default:g})",
    )


def _choice(
    group: argparse._ArgumentGroup, name: str, choices: tuple[str, ...], what: str
) -> None:
    group.add_argument(
        name, choices=choices, default=choices[0], help=f"{what} (default: {choices[0]})"
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage in front of it."""
        self.exit(2, f"simulate: {message}; see --help\n")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=96)
