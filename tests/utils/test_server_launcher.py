"""Tests of starting and stopping ASGI servers in tasks, threads and processes."""

import asyncio
import pickle
import socket
import threading
import urllib.request
from typing import Any

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.utils.server_launcher import (
    PythonServerLauncher,
    PythonServerLauncherArgs,
    noop_context,
)


async def hello(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer every request with the path."""
    assert scope["type"] == "http", scope
    status = 500 if scope["path"] == "/sick" else 200
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


async def broken(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Fail at start-up, as an application whose lifespan raises."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as response:
        return response.read().decode()


@pytest.mark.parametrize("mode", ["asyncio", "thread", "mp"])
async def test_serves_in_every_mode(mode: Any):
    """In each launch mode a started server answers, and a stopped one is gone."""
    launcher = PythonServerLauncher(
        hello, PythonServerLauncherArgs(launch_mode=mode, healthcheck_url="/health")
    )
    await launcher.start()
    try:
        assert launcher.is_running()
        assert launcher.endpoint == launcher.access_endpoint
        assert launcher.endpoint.startswith("http://127.0.0.1:")
        assert await asyncio.to_thread(fetch, launcher.endpoint + "/abc") == "/abc"
        with pytest.raises(RuntimeError, match="already running"):
            await launcher.start()
    finally:
        await launcher.stop()
    await launcher.stop()
    assert not launcher.is_running()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", launcher.port)) != 0
    names = {thread.name for thread in threading.enumerate()}
    assert f"agl-server-{launcher.port}" not in names


async def test_several_processes_share_the_port():
    """Several workers answer on one port."""
    launcher = PythonServerLauncher(hello, PythonServerLauncherArgs(launch_mode="mp", n_workers=2))
    await launcher.start()
    try:
        bodies = [await asyncio.to_thread(fetch, launcher.endpoint + "/x") for _ in range(8)]
        assert bodies == ["/x"] * 8
    finally:
        await launcher.stop()


async def test_an_application_without_pickle_is_forked():
    """A closure can be served from a process too, by forking."""
    word = "inherited"

    async def closure(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": word.encode()})

    launcher = PythonServerLauncher(closure, PythonServerLauncherArgs(launch_mode="mp"))
    await launcher.start()
    try:
        assert await asyncio.to_thread(fetch, launcher.endpoint) == "inherited"
    finally:
        await launcher.stop()


@pytest.mark.parametrize("mode", ["asyncio", "thread", "mp"])
async def test_failed_start_is_an_error_and_leaves_nothing(mode: Any):
    """An application that fails to start raises, and its port is free again."""
    launcher = PythonServerLauncher(broken, PythonServerLauncherArgs(launch_mode=mode))
    with pytest.raises(RuntimeError, match="failed to start"):
        await launcher.start()
    assert not launcher.is_running()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", launcher.port))


async def test_unhealthy_server_is_killed_or_kept():
    """A server that never becomes healthy is stopped, unless asked to keep it."""
    args = PythonServerLauncherArgs(
        launch_mode="thread", healthcheck_url="/sick", startup_timeout=0.3
    )
    launcher = PythonServerLauncher(hello, args)
    with pytest.raises(RuntimeError, match="did not become healthy"):
        await launcher.start()
    assert not launcher.is_running()

    args.kill_unhealthy_server = False
    kept = PythonServerLauncher(hello, args)
    await kept.start()
    try:
        assert await asyncio.to_thread(fetch, kept.endpoint + "/ok") == "/ok"
    finally:
        await kept.stop()


async def test_taken_port_says_what_to_do():
    """A port in use is a configuration error that proposes another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        args = PythonServerLauncherArgs(port=taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match="Choose another port"):
            await PythonServerLauncher(hello, args).start()


async def test_reload_serves_again():
    """A reloaded server answers under the same launcher."""
    launcher = PythonServerLauncher(
        hello, PythonServerLauncherArgs(launch_mode="thread"), noop_context()
    )
    plain = PythonServerLauncher(hello, PythonServerLauncherArgs(launch_mode="thread"))
    await launcher.start()
    await launcher.stop()
    await plain.start()
    await plain.reload()
    try:
        assert await asyncio.to_thread(fetch, plain.endpoint + "/again") == "/again"
    finally:
        await plain.stop()


async def test_run_forever_ends_when_cancelled():
    """Cancelling `run_forever` stops the server."""
    launcher = PythonServerLauncher(hello, PythonServerLauncherArgs())
    task = asyncio.create_task(launcher.run_forever())
    while not launcher.is_running():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not launcher.is_running()


async def test_before_shutdown_ends_open_streams():
    """The shutdown callback runs before running requests are awaited, and can end them."""
    closing: list[asyncio.Event] = []

    async def stream(scope: dict[str, Any], receive: Any, send: Any) -> None:
        event = asyncio.Event()
        closing.append(event)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begin,", "more_body": True})
        await event.wait()
        await send({"type": "http.response.body", "body": b"end"})

    def close() -> None:
        for event in closing:
            event.set()

    launcher = PythonServerLauncher(
        stream, PythonServerLauncherArgs(launch_mode="thread"), before_shutdown=close
    )
    await launcher.start()
    reading = asyncio.create_task(asyncio.to_thread(fetch, launcher.endpoint))
    while not closing:
        await asyncio.sleep(0.01)
    await launcher.stop()
    assert await reading == "begin,end"


def test_addresses_of_public_hosts():
    """A server on every interface is reached by loopback here and by an address elsewhere."""
    launcher = PythonServerLauncher(hello, PythonServerLauncherArgs(host="0.0.0.0", port=1234))
    copy = pickle.loads(pickle.dumps(launcher))
    launcher._port = copy._port = 1234
    assert copy.endpoint == launcher.endpoint == "http://127.0.0.1:1234"
    assert "0.0.0.0" not in launcher.access_endpoint
    named = PythonServerLauncherArgs(host="0.0.0.0", port=1, access_host="store.example")
    assert PythonServerLauncher(hello, named).access_endpoint.startswith("http://store.example:")


@pytest.mark.parametrize(
    "wrong",
    [{"launch_mode": "fiber"}, {"n_workers": 0}, {"n_workers": 2, "launch_mode": "thread"}],
)
def test_impossible_arguments_are_refused(wrong: dict[str, Any]):
    """Arguments that cannot work raise at construction."""
    with pytest.raises(ConfigurationError):
        PythonServerLauncherArgs(**wrong)
