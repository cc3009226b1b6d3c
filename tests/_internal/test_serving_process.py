"""Tests of serving processes: they report how they start, and do not outlive their parent."""

import multiprocessing
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from agentlightning._internal.serving import ServeOptions, bind_socket, format_address
from agentlightning._internal.serving_process import ServerProcesses


async def who(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with the number of the serving process."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})


class Factory:
    """Makes the application in the child, or fails there."""

    is_app_factory = True

    def __init__(self, *, works: bool) -> None:
        self.works = works

    def __call__(self) -> Any:
        if not self.works:
            raise LookupError("no such database")
        return who


def ask(url: str) -> int:
    with urllib.request.urlopen(url, timeout=5) as response:
        return int(response.read())


def test_a_factory_makes_the_application_in_the_child():
    """The child builds its own application and serves it on the parent's socket."""
    listener = bind_socket("127.0.0.1", 0)
    url = format_address(*listener.getsockname())
    processes = ServerProcesses(Factory(works=True), listener, ServeOptions())
    processes.start(1, 60.0)
    try:
        assert processes.is_running()
        assert ask(url) != os.getpid()
    finally:
        processes.stop(10.0)
    assert not processes.is_running()


def test_a_child_that_fails_says_why():
    """What goes wrong in the child is the parent's error, and no child is left."""
    processes = ServerProcesses(Factory(works=False), bind_socket("127.0.0.1", 0), ServeOptions())
    with pytest.raises(RuntimeError, match="no such database"):
        processes.start(1, 60.0)
    assert not processes.is_running()


def _parent(addresses: Any) -> None:
    listener = bind_socket("127.0.0.1", 0)
    processes = ServerProcesses(who, listener, ServeOptions())
    processes.start(1, 60.0)
    addresses.send(format_address(*listener.getsockname()))
    signal.pause()


def test_children_end_with_their_parent():
    """When the parent is killed, its serving process stops by itself."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    parent = context.Process(target=_parent, args=(theirs,))
    parent.start()
    try:
        assert ours.poll(60)
        url = ours.recv()
        child = ask(url)
    finally:
        parent.kill()
        parent.join()
        parent.close()
        ours.close()
        theirs.close()
    host, port = url.removeprefix("http://").split(":")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) != 0:
                break
        time.sleep(0.05)
    else:
        pytest.fail(f"process {child} still serves")
