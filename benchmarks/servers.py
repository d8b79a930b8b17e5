"""The servers under test, and one of them running on the cores meant for it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import attrs

from benchmarks.accounting import Cores

END_S = 8.0
"""From the signal to the end of the process, its drain included; then it is killed."""

OURS = "trio_bridge"
"""With its default settings. Every ratio is to this one."""
NO_TICK = ("trio_bridge, tick 0", ("--audio-tick-ms", "0"))
LOWEST_LATENCY = (
    "trio_bridge, tick 0, polling",
    ("--audio-tick-ms", "0", "--audio-poll-us", "1000"),
)
BEST_THROUGHPUT = ("trio_bridge, tick 100 ms", ("--audio-tick-ms", "100"))
"""The longest tick there is."""


class ServerError(Exception):
    """A server did not start; the text is what it said last."""


@attrs.frozen
class Tls:
    """Files of a self-signed certificate for 127.0.0.1."""

    cert: str
    key: str


@attrs.frozen
class Candidate:
    """A server that can be started."""

    name: str
    arguments: tuple[str, ...]
    """What comes after ``python -m``."""
    log: Path | None = None
    """Where its stderr goes; None: kept only to say why it did not start."""


@attrs.frozen
class Running:
    """A server that listens."""

    pid: int
    port: int
    listening_s: float
    """From just before it was executed to its first line on stdout."""


def variants() -> tuple[Candidate, ...]:
    """Our settings between the lowest latency and the best throughput."""
    return (ours(), ours(*LOWEST_LATENCY), ours(*BEST_THROUGHPUT), ours(*NO_TICK))


def ours(name: str = OURS, flags: tuple[str, ...] = ()) -> Candidate:
    """The product itself, with its default settings but for ``flags``."""
    command = ("trio_bridge", "--port", "0", "--agent", "benchmarks.null_agent:null")
    open_door = ("--max-sessions", "100000", "--max-lag-percent", "0")  # to see where it ends
    return Candidate(name, (*command, *open_door, *flags))


def peers() -> tuple[Candidate, ...]:
    """What people would pick instead."""
    named = {
        "FastAPI + uvicorn + uvloop (websockets)": "fastapi",
        "FastAPI + uvicorn + uvloop (sans-I/O)": "fastapi_sansio",
        "websockets + uvloop": "websockets",
        "aiohttp + uvloop": "aiohttp",
        "picows + uvloop": "picows",
    }
    return tuple(Candidate(name, ("benchmarks.peers", key)) for name, key in named.items())


@contextmanager
def running(
    candidate: Candidate,
    cores: Cores,
    variables: Mapping[str, str],
    tls: Tls | None = None,
) -> Iterator[Running]:
    """``candidate`` as a child process on its cores, from its first line to its end.

    Raises:
        ServerError: it ended before it listened.
    """
    command = [sys.executable, "-m", *candidate.arguments]
    if tls is not None:
        command += ["--tls-cert", tls.cert, "--tls-key", tls.key]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TRIO_BRIDGE_")}
    with _log(candidate) as errors:
        # A child inherits its parent's cores from its first instruction on, threads included.
        os.sched_setaffinity(0, cores.servers)
        began_s = time.monotonic()
        try:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, env={**inherited, **variables}
            )
        finally:
            os.sched_setaffinity(0, cores.loads)
        try:
            assert process.stdout is not None
            first = process.stdout.readline().decode()
            listening_s = time.monotonic() - began_s
            port = first.strip().rpartition(":")[2]
            if not port.isdigit():
                errors.seek(0)
                said = errors.read().decode(errors="replace")[-2_000:]
                raise ServerError(f"{candidate.name} did not start: {first}{said}".strip())
            yield Running(process.pid, int(port), listening_s)
        finally:
            _end(process)


def _log(candidate: Candidate) -> IO[bytes]:
    if candidate.log is None:
        return tempfile.TemporaryFile()
    return candidate.log.open("w+b")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def make_certificate(directory: Path) -> Tls | None:
    """A fresh self-signed certificate, by the ``openssl`` command; None without that."""
    tls = Tls(str(directory / "cert.pem"), str(directory / "key.pem"))
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
    command += ["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj"]
    command += ["/CN=localhost", "-keyout", tls.key, "-out", tls.cert]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return tls
