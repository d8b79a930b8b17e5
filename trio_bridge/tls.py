"""The server's side of TLS: a context made of two PEM files, or one line about what is wrong.

OpenSSL says ``[SSL] PEM lib`` for most of what can be wrong, and never which file it means.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NoReturn

import trio

from trio_bridge.errors import SettingsError

RELOAD_S = 10.0
"""For two small files; one may have become a pipe that nobody writes, or be on a dead mount."""
_NOT_A_PAIR = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}


def server_context(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    """TLS 1.2 or newer with the chain in file ``cert`` and its key in ``key``; None for none.

    Each file is read once, so it may be a pipe; the same one may hold both. Blocks.

    Raises:
        SettingsError: names the file that is wrong, and the mend.
    """
    if cert is None:
        return None

    def locked() -> NoReturn:  # without it OpenSSL would ask for the passphrase, and wait
        raise SettingsError(
            f"--tls-key {key}: is locked with a passphrase; write it without one: "
            f"openssl pkey -in {key} -out unlocked.pem"
        )

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])  # who offers h2 as well must not start with it
    try:
        context.load_cert_chain(cert, key, locked)
    except (OSError, ValueError) as exc:  # an SSLError is an OSError; a path with NUL no path
        raise SettingsError(_what_is_wrong(cert, key or cert, exc)) from exc
    return context


async def renewed_context(cert: str, key: str) -> ssl.SSLContext:
    """The same from the files as they are by now, without blocking; `RELOAD_S` at most.

    A context of its own: one that is in use and then given half a bad pair would be broken.

    Raises:
        SettingsError: names the file that is wrong, and the mend.
    """
    try:
        with trio.fail_after(RELOAD_S):
            context = await trio.to_thread.run_sync(
                server_context, cert, key, abandon_on_cancel=True
            )
    except trio.TooSlowError as exc:
        raise SettingsError(
            f"--tls-cert {cert}, --tls-key {key}: cannot be read within {RELOAD_S:g} s; give "
            "files, no pipes"
        ) from exc
    assert context is not None  # there is a file
    return context


def _what_is_wrong(cert: str, key: str, failure: Exception) -> str:
    for flag, path, what in (
        ("--tls-cert", cert, "certificate"),
        ("--tls-key", key, "private key"),
    ):
        try:
            content = Path(path).read_bytes()
        except (OSError, ValueError) as exc:
            why = getattr(exc, "strerror", None) or exc
            return f"{flag} {path}: {why}; give a PEM file that this user may read"
        if f" {what.upper()}-----".encode() not in content:
            return (
                f"{flag} {path}: holds no {what} in PEM form; give the file with the line "
                f"-----BEGIN {what.upper()}-----"
            )
    reason = getattr(failure, "reason", None)
    if reason in _NOT_A_PAIR:
        return f"--tls-key {key}: is not the key of {cert}; give the two made for each other"
    if reason is not None:  # EE_KEY_TOO_SMALL and the like
        return f"--tls-cert {cert}: OpenSSL refuses it ({reason}); have a stronger pair made"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cert)
    except ssl.SSLError:
        return f"--tls-cert {cert}: is damaged; copy it again"
    return f"--tls-key {key}: is damaged; copy it again"
