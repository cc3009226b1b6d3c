"""Tests of addresses and sockets, and of a server in a thread."""

import socket
import urllib.request
from typing import Any

import pytest

from agentlightning._internal.serving import (
    ServeOptions,
    ServerThread,
    bind_socket,
    format_address,
    is_loopback,
    outbound_address,
)
from agentlightning.errors import ConfigurationError


async def hello(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"])
def test_loopback(host: str):
    """Addresses of this machine alone are recognised."""
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "example.org", "localhost.x"])
def test_not_loopback(host: str):
    """Everything else, names included, counts as reachable by others."""
    assert not is_loopback(host)


def test_addresses():
    """URLs put brackets around IPv6, and the outbound address is an IPv4 address."""
    assert format_address("127.0.0.1", 1) == "http://127.0.0.1:1"
    assert format_address("::1", 1) == format_address("[::1]", 1) == "http://[::1]:1"
    socket.inet_aton(outbound_address())


@pytest.mark.parametrize(("host", "port"), [("256.0.0.1.", 0), ("203.0.113.1", 0), ("", 70000)])
def test_what_cannot_be_bound_is_refused(host: str, port: int):
    """An address that is not ours is a configuration error."""
    with pytest.raises(ConfigurationError, match="Cannot"):
        bind_socket(host, port)


def test_a_thread_serves_and_ends():
    """A server thread answers until it is stopped; stopping twice, or unstarted, is fine."""
    listener = bind_socket("127.0.0.1", 0)
    url = format_address(*listener.getsockname())
    thread = ServerThread(hello, listener, ServeOptions(), name="t")
    assert not thread.is_running()
    thread.start()
    assert thread.is_running()
    assert thread.loop is not None
    with urllib.request.urlopen(url, timeout=5) as response:
        assert response.read() == b"hello"
    thread.stop()
    thread.stop()
    assert thread.loop is None
    assert not thread.is_running()
    unstarted = ServerThread(hello, bind_socket("127.0.0.1", 0), ServeOptions(), name="t")
    unstarted.stop()
