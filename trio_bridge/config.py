"""Settings: one frozen value, and the one definition of each flag, variable and file key.

A setting `lead_ms` is the flag ``--lead-ms``, the variable ``TRIO_BRIDGE_LEAD_MS`` and the key
``lead_ms`` of a TOML file (``--config FILE``). A flag wins over a variable, a variable over the
file, the file over the default. Knows no I/O but reading that file.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from trio_bridge.errors import SettingsError
from trio_bridge.limits import Limits
from trio_bridge.setting import KINDS, kind_of
from trio_bridge.setting import setting as _setting

ENV_PREFIX = "TRIO_BRIDGE_"
SHORTEST_KEY = 32
"""Characters: `openssl rand -hex 16` makes so many, and nobody guesses 128 bits."""


@attrs.frozen(kw_only=True)
class Settings(Limits):
    """Everything an operator can choose. Units are in the names; bad values raise
    `SettingsError` with the name and the mend."""

    host: str = _setting("127.0.0.1", "address to listen on; 0.0.0.0 for every IPv4 one")
    port: int = _setting(8080, "TCP port; 0 lets the system choose", low=0, high=65_535)
    tls_cert: str | None = _setting(
        None,
        "PEM file of the certificate and its chain: bots connect with wss:// and TLS 1.2 or "
        "newer; SIGHUP reads a renewed one",
        metavar="FILE",
    )
    tls_key: str | None = _setting(
        None, "PEM file of that certificate's private key, without a passphrase", metavar="FILE"
    )
    workers: int = _setting(
        1,
        "processes that share the port, one a core; both sockets of a bot meet in one of them",
        low=1,
        high=256,
    )
    max_sessions: int = _setting(
        500,
        "meetings at once in each process; beyond, new bots are told to try again. What one "
        "core carries and 1024 open files hold, if agents cost nothing: measure yours",
        low=1,
        high=1_000_000,
    )
    max_lag_percent: int = _setting(
        50,
        "how late the event loop may be, in % of what a bot has still to play when a chunk is "
        "due (lead_ms - chunk_ms); beyond, no new meetings until it is half; 0: never refuse",
        low=0,
        high=100,
    )
    watchdog_ms: int = _setting(
        200,
        "ms that the event loop may be blocked before the log says by what, with its stack; "
        "0: nobody looks",
        low=0,
        high=60_000,
    )
    agent: str | None = _setting(
        None,
        "agent by name (echo, local) or as package.module:function; "
        "without it local if its parts are installed, else echo",
        metavar="NAME",
    )
    token: tuple[str, ...] = _setting(
        (),
        "secret that a bot must show (repeatable): in the path as /t/TOKEN/bridge, as "
        "?token= or as a bearer token; none, and no --token-key: everybody may connect",
        metavar="TEXT",
        secret=True,
    )
    token_key: str | None = _setting(
        None,
        "secret that tokens of one bot are made with, which expire: `trio_bridge token BOT_ID "
        "--ttl 2h`; they are shown like --token, and of no use to another bot",
        metavar="TEXT",
        secret=True,
        shortest=SHORTEST_KEY,
    )
    allowed_origin: tuple[str, ...] = _setting(
        (),
        "Origin header that a browser may send (repeatable); bots send none",
        metavar="ORIGIN",
    )
    bot_name: tuple[str, ...] = _setting(
        ("MeetStream Agent", "Meeting Assistant"),
        "display name of our bot (repeatable): its own voice is not heard; exact, case folded",
        metavar="NAME",
    )
    bot_speaker_id: tuple[str, ...] = _setting(
        (), "speaker id of our bot (repeatable), where the platform gives one", metavar="ID"
    )
    own_voice: Literal["silence", "drop"] = _setting(
        "silence",
        "what becomes of our own voice: silence keeps the meeting's time",
        choices=("silence", "drop"),
    )
    layout: Literal["auto", "mixed", "separate"] = _setting(
        "auto",
        "frames are one mixed stream or one stream per speaker; auto finds out",
        choices=("auto", "mixed", "separate"),
    )
    channels: int = _setting(
        1, "channels of the bot's PCM; 2 are averaged", low=1, high=2, metavar="N"
    )
    resample_quality: Literal["QQ", "LQ", "MQ", "HQ", "VHQ"] = _setting(
        "HQ",
        "soxr quality; mean delay at 48 to 16 kHz: LQ 11 ms, MQ and HQ 21, VHQ 43, QQ 0 "
        "(aliases)",
        choices=("QQ", "LQ", "MQ", "HQ", "VHQ"),
    )
    audio_backlog_ms: int = _setting(
        400, "ms of meeting audio kept for a slow agent; then the oldest is dropped", low=40,
        high=60_000,
    )  # fmt: skip
    audio_tick_ms: float = _setting(
        2.0,
        "ms that audio frames may gather before they are read; twice that, up to 3.5, while "
        "few come: costs as much latency and saves wake-ups; 0: each frame at once",
        low=0.0,
        high=100.0,
    )
    audio_poll_us: int = _setting(
        0,
        "us for which the loop goes on looking after it found audio, instead of sleeping; with "
        "a tick of 0 and an AudioClock only: 1000 take the last of the latency away and a core",
        low=0,
        high=1_000,
    )
    chunk_ms: int = _setting(100, "ms of speech in one message to the bot", low=20, high=1_000)
    lead_ms: int = _setting(
        300,
        "ms of speech queued at the bot: bridges network jitter, and is what can still be "
        "heard after an interrupt",
        low=40,
        high=5_000,
    )
    speech_backlog_ms: int = _setting(
        2_000, "ms of speech an agent may be ahead; then say() waits", low=100, high=60_000
    )
    command_backlog_kib: int = _setting(
        4_096,
        "KiB of chat, captions and pictures that may wait for the bot; then the agent waits",
        low=1_024,
        high=1_000_000,
    )
    barge_in_ms: int = _setting(
        300,
        "ms of human speech that interrupt ours; 0: only the meeting can",
        low=0,
        high=5_000,
    )
    vad_threshold_dbfs: float = _setting(
        -45.0, "dBFS above which audio can be speech", low=-90.0, high=0.0
    )
    end_of_turn_ms: int = _setting(
        600, "ms of silence that end an utterance", low=100, high=10_000
    )
    ack: bool = _setting(True, "answer a channel's ready message with an ack")
    hello_s: float = _setting(
        10.0, "seconds a new connection has for its ready message", low=0.1, high=120.0
    )
    grace_s: float = _setting(
        15.0,
        "seconds a meeting waits for a lost bot; bots were seen to retry after 10",
        low=0.0,
        high=3_600.0,
    )
    wrap_up_s: float = _setting(
        2.0, "seconds an agent has after its meeting to end by itself", low=0.0, high=600.0
    )
    teardown_s: float = _setting(
        5.0, "seconds a cancelled agent may take before it is reported", low=0.1, high=600.0
    )
    drain_s: float = _setting(
        5.0, "seconds running meetings have after SIGTERM", low=0.0, high=86_400.0
    )
    bad_frames: int = _setting(
        500, "bad messages in a row that end a socket; one good one starts anew", low=1,
        high=1_000_000,
    )  # fmt: skip
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "least important log that is written",
        choices=("debug", "info", "warning", "error"),
    )  # fmt: skip
    log_format: Literal["auto", "json", "text"] = _setting(
        "auto", "JSON lines or text; auto: text on a terminal", choices=("auto", "json", "text")
    )

    def __attrs_post_init__(self) -> None:
        if self.lead_ms < self.chunk_ms:
            raise SettingsError(
                f"lead_ms: {self.lead_ms} is less than chunk_ms ({self.chunk_ms}); "
                "raise lead_ms or lower chunk_ms"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            names = ("tls_cert", "tls_key")
            given, missing = names if self.tls_cert is not None else reversed(names)
            raise SettingsError(f"{given}: is given without {missing}; give both or neither")
        if self.workers > 1 and self.tls_cert is not None:
            raise SettingsError(
                "workers: more than one needs plain TCP; end TLS in a proxy in front, or leave "
                "it 1"
            )


def add_flags(parser: argparse.ArgumentParser, only: Collection[str] = ()) -> None:
    """Give ``parser`` a flag for every setting, with its unit and default, and ``--config``.

    With ``only`` these settings alone; `load_settings` has the others from where it finds them.
    """
    parser.add_argument("--config", metavar="FILE", help="TOML file with any of these settings")
    groups: dict[str, argparse._ActionsContainer] = {"": parser}
    for field in _in_groups():
        if only and field.name not in only:
            continue
        group = field.metadata["group"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        flag = "--" + field.name.replace("_", "-")
        choices = field.metadata["choices"]
        options: dict[str, Any] = {"dest": field.name, "default": None}
        if isinstance(field.default, tuple):
            options["action"] = "append"
        elif field.default is True:
            options["action"] = argparse.BooleanOptionalAction
        if "action" not in options or isinstance(field.default, tuple):
            options["metavar"] = (
                "|".join(choices)
                or field.metadata["metavar"]
                or ({int: "N", float: "X"}.get(kind_of(field), "TEXT"))
            )
        groups[group].add_argument(flag, help=_help(field), **options)


def load_settings(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Settings from parsed flags (None: not given), the environment and the file they name.

    Raises:
        SettingsError: one line that names the setting, where it came from and the mend.
    """
    file = flags.get("config") or environ.get(ENV_PREFIX + "CONFIG")
    values = _read_file(file) if file else {}
    sources = {name: f"{file}: {name}" for name in values}
    for field in attrs.fields(Settings):
        variable = ENV_PREFIX + field.name.upper()
        if variable in environ:
            sources[field.name] = f"${variable}"
            values[field.name] = _parse(field, environ[variable], sources[field.name])
        flag = flags.get(field.name)
        if flag is not None:
            sources[field.name] = "--" + field.name.replace("_", "-")
            values[field.name] = _parse(field, flag, sources[field.name])
    try:
        return Settings(**values)
    except SettingsError as error:
        name, colon, why = str(error).partition(":")
        raise SettingsError(sources.get(name, name) + colon + why) from error


def settings_table() -> str:
    """Every setting as Markdown, a table a group: the README's, a test keeps them the same."""
    rows = []
    group = None
    for field in _in_groups():
        if field.metadata["group"] != group:
            group = field.metadata["group"]
            rows += [f"\n{group[:1].upper()}{group[1:]}:\n"] if group else []
            rows += ["| flag | default | what |", "|---|---|---|"]
        default = field.default
        shown = ", ".join(default) if isinstance(default, tuple) else default
        shown = "" if shown is None else "on" if shown is True else shown
        text = field.metadata["text"]
        rows.append(f"| `--{field.name.replace('_', '-')}` | {shown} | {text} |")
    return "\n".join(rows) + "\n"


def _in_groups() -> Iterator[attrs.Attribute[Any]]:
    """The settings as they are shown: those without a group first."""
    fields = attrs.fields(Settings)
    groups = dict.fromkeys(["", *(field.metadata["group"] for field in fields)])
    return (f for group in groups for f in fields if f.metadata["group"] == group)


def _help(field: attrs.Attribute[Any]) -> str:
    default = field.default
    if default is None or default == ():
        return str(field.metadata["text"]).replace("%", "%%")
    shown = ", ".join(default) if isinstance(default, tuple) else default
    shown = "on" if shown is True else shown
    return f"{field.metadata['text']} [{shown}]".replace("%", "%%")


def _parse(field: attrs.Attribute[Any], given: Any, source: str) -> Any:
    """What a flag or variable says, in the setting's type."""
    kind = kind_of(field)
    if kind is tuple:
        items = (
            tuple(filter(None, given.split(","))) if isinstance(given, str) else tuple(given)
        )
        if field.metadata["secret"] and not items:  # a variable left empty must open no door
            raise SettingsError(f"{source}: is empty; set it, or unset it to let everybody in")
        return items
    if not isinstance(given, str):
        return given
    if kind is bool:
        if given.lower() in {"1", "true", "yes", "on", "0", "false", "no", "off"}:
            return given.lower() in {"1", "true", "yes", "on"}
        raise SettingsError(f"{source}: expected true or false, got {given!r}")
    if kind in (int, float):
        try:
            return kind(given)
        except ValueError:
            raise SettingsError(f"{source}: expected {KINDS[kind]}, got {given!r}") from None
    return given


def _read_file(path: str) -> dict[str, Any]:
    import difflib  # a start without a file does not need the two
    import tomllib

    try:
        with Path(path).open("rb") as file:
            values = tomllib.load(file)
    except OSError as exc:
        raise SettingsError(f"--config {path}: {exc.strerror or exc}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"--config {path}: not TOML: {exc}") from exc
    known = {field.name for field in attrs.fields(Settings)}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name.replace("-", "_"), known, 1)
            hint = f"did you mean {near[0]}?" if near else "see --help; there are no tables"
            raise SettingsError(f"--config {path}: no setting is called {name!r}; {hint}")
    return values
