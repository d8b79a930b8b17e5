"""``python -m benchmarks.peers NAME``: run one peer on a free loopback port until killed."""

from __future__ import annotations

import argparse
import importlib
import socket
import ssl
import sys

from benchmarks.peers.work import PeerBridge
from benchmarks.stamps import open_stamps

NAMES = ("fastapi", "fastapi_sansio", "websockets", "picows", "aiohttp")


def main() -> None:
    """Listen, say where on the first line of stdout, and serve."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--tls-cert")
    parser.add_argument("--tls-key")
    arguments = parser.parse_args()
    tls = None
    if arguments.tls_cert:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(arguments.tls_cert, arguments.tls_key)
    peer = importlib.import_module(f"benchmarks.peers.{arguments.name}_peer")
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setblocking(False)
    bridge = PeerBridge(open_stamps())
    sys.stdout.write(f"listening on http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    try:
        peer.serve(bridge, listener, tls, arguments.tls_cert, arguments.tls_key)
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
