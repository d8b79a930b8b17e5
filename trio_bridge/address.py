"""Where a server listens: opened from the settings, and said in logs and to programs."""

from __future__ import annotations

import errno
import ipaddress
import logging

import attrs
import trio

from trio_bridge.config import Settings
from trio_bridge.errors import SettingsError

log = logging.getLogger(__name__)

Listener = trio.abc.Listener[trio.SocketStream]


@attrs.frozen
class Address:
    """Where a server listens."""

    host: str
    port: int
    tls: bool = False

    @property
    def url(self) -> str:
        """``http://HOST:PORT``, or ``https``; a bot says ``ws`` or ``wss``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' * self.tls}://{host}:{self.port}"


def address_of(listener: Listener, settings: Settings) -> Address:
    """Where ``listener`` listens; port 0 for one that is no socket."""
    tls = settings.tls_cert is not None
    if not isinstance(listener, trio.SocketListener):
        return Address("", 0, tls)
    name = listener.socket.getsockname()
    host, port = name[:2] if isinstance(name, tuple) else (str(name), 0)
    return Address(host, port, tls)


def warn_when_open(address: Address, settings: Settings) -> None:
    """Log it when strangers can reach ``address`` and need no token."""
    if settings.token or settings.token_key or not address.port:
        return
    if not ipaddress.ip_address(address.host.split("%")[0]).is_loopback:
        log.warning(
            "everybody who reaches this address may use the agent: set --token",
            extra={"host": address.host},
        )


async def open_listeners(settings: Settings) -> list[trio.SocketListener]:
    """Listen on the settings' host and port; the caller closes what it gets.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    host, port = settings.host, settings.port
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except UnicodeError as exc:
        raise SettingsError(f"{host!r} is not a host name: choose another --host") from exc
    except OSError as exc:
        known = {
            errno.EADDRINUSE: "is in use: stop what listens there or choose another --port",
            errno.EACCES: "needs more rights: choose a --port above 1023",
            errno.EADDRNOTAVAIL: "is not an address of this machine: choose another --host",
        }
        why = known.get(exc.errno or 0, f"cannot be listened on: {exc.strerror or exc}")
        raise SettingsError(f"{host}:{port} {why}") from exc
    if port:
        return listeners
    for other in listeners[1:]:  # each address would have a port of its own
        await other.aclose()
    return listeners[:1]
