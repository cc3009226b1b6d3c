"""Ports for servers that must know theirs before they run, or keep it when they start again."""

import secrets
import socket

FIRST, COUNT = 15_000, 17_000


def free_port() -> int:
    """Return a port of this machine that nobody listens on now.

    It lies below those that systems give to connections and to servers without a port of their own
    (from 32,768 on Linux), so nobody else gets it by chance before its server binds it.
    """
    while True:
        port = FIRST + secrets.randbelow(COUNT)
        with socket.socket() as probe:
            # As servers do: connections of the last minute are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
