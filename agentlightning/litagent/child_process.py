"""One child process: run to its end, its output captured, and nothing of it left behind.

The child leads a process group. A guard, a shell in the same group that waits for a pipe which
only this process holds open, kills the group when the pipe closes: that is when the child has
ended, when it is stopped, and when this process dies in whatever way. Processes that leave the
group by themselves (daemons, containers) are not followed. Windows has no groups: there the
child's descendants are looked up and killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from agentlightning._internal.clock import monotonic

__all__ = ["ChildOutput", "run_child"]

_TERM_SECONDS = 0.5
"""How long a child that is stopped may clean up; less than what the runner grants an agent."""

_READ_SECONDS = 1.0
"""How long outputs are read that a process outside of the group still holds open."""

_GUARD = """\
exec 3<&0
(trap "" TERM INT HUP; read -r _; kill -KILL 0) <&3 >/dev/null 2>&1 &
exec 3<&- <"$1"
shift
exec "$@"
"""
"""Starts the guard on what it gets as its input, and becomes the command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildOutput:
    """How a child ended and what it said."""

    exit_code: int
    """As programs return it; the negative number of the signal that ended it otherwise."""
    stdout: str
    stderr: str
    """The ends of both; bytes that are no UTF-8 are replaced."""
    cut_bytes: int
    """How much of their beginnings was dropped, together."""
    seconds: float
    timed_out: bool
    """It was stopped because its time was over."""


class _Tail:
    """The last bytes of a stream."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()
        self.cut = 0

    def take(self, data: bytes) -> None:
        self._kept += data
        surplus = len(self._kept) - self._limit
        if surplus > 0:
            del self._kept[:surplus]
            self.cut += surplus

    def text(self) -> str:
        return self._kept.decode("utf-8", "replace")


class _Child(asyncio.SubprocessProtocol):
    """Takes what a child says, and knows when it has ended and when its outputs have."""

    def __init__(self, output_limit: int) -> None:
        self.tails = {1: _Tail(output_limit), 2: _Tail(output_limit)}
        self.exited = asyncio.Event()
        self.closed = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.tails[fd].take(data)

    def process_exited(self) -> None:
        # Not the same moment as the end of its outputs, which its own children may hold open.
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()


async def run_child(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: Path,
    stdin: str | None = None,
    timeout_seconds: float | None = None,
    output_limit: int = 65536,
) -> ChildOutput:
    """Run a command to its end; a cancellation stops it, and what it has started, too.

    Args:
        command: Program and arguments; no shell reads them.
        environment: All of its environment.
        directory: Where it runs.
        stdin: What it can read; None gives it an empty input.
        timeout_seconds: After so long it is told to end, and then killed; None waits for ever.
        output_limit: How many bytes of each of its outputs are kept, from the end.

    Raises:
        OSError: It cannot be started.
    """
    started, timed_out = monotonic(), False
    child = _Child(output_limit)
    run = _run_in_group if os.name != "nt" else _run_alone
    with _input_file(stdin) as input_path:
        async with run(child, command, input_path, env=dict(environment), cwd=directory) as process:
            try:
                async with asyncio.timeout(timeout_seconds):
                    await child.exited.wait()
            except TimeoutError:
                timed_out = True
    exit_code = process.get_returncode()
    assert exit_code is not None
    return ChildOutput(
        exit_code=exit_code,
        stdout=child.tails[1].text(),
        stderr=child.tails[2].text(),
        cut_bytes=child.tails[1].cut + child.tails[2].cut,
        seconds=monotonic() - started,
        timed_out=timed_out,
    )


@contextlib.contextmanager
def _input_file(text: str | None) -> Generator[str]:
    """Yield the path of a file that holds a text; it is gone afterwards."""
    if text is None:
        yield os.devnull
        return
    descriptor, path = tempfile.mkstemp(prefix="agl-stdin-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
        yield path
    finally:
        Path(path).unlink()


@contextlib.asynccontextmanager
async def _run_in_group(
    child: _Child, command: Sequence[str], input_path: str, **options: Any
) -> AsyncGenerator[asyncio.SubprocessTransport]:
    """Start a child; when the block is left, it and its group are gone."""
    reader, writer = os.pipe()
    with contextlib.ExitStack() as guard:
        guard.callback(os.close, writer)
        guarded = ("/bin/sh", "-c", _GUARD, "agl-guard", input_path, *command)
        try:
            process = await _start(child, guarded, reader, process_group=0, **options)
        finally:
            os.close(reader)
        try:
            yield process
        finally:
            try:
                await _tell_to_end(child, process)
            finally:
                # From here on the guard kills what is left.
                guard.close()
                await _close(child, process)


async def _tell_to_end(child: _Child, process: asyncio.SubprocessTransport) -> None:
    """Ask a child that still runs to end, and wait a moment."""
    if not child.exited.is_set():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.get_pid(), signal.SIGTERM)
        await _wait(child.exited, _TERM_SECONDS)


@contextlib.asynccontextmanager
async def _run_alone(
    child: _Child, command: Sequence[str], input_path: str, **options: Any
) -> AsyncGenerator[asyncio.SubprocessTransport]:
    """Do the same where there are no process groups."""
    import psutil

    file = await asyncio.to_thread(open, input_path, "rb")
    with file:
        process = await _start(child, command, file, **options)
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for descendant in psutil.Process(process.get_pid()).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    descendant.kill()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await _close(child, process)


async def _start(
    child: _Child, command: Sequence[str], stdin: int | IO[Any], **options: Any
) -> asyncio.SubprocessTransport:
    pipe = subprocess.PIPE
    process, _ = await asyncio.get_running_loop().subprocess_exec(
        lambda: child, *command, stdin=stdin, stdout=pipe, stderr=pipe, **options
    )
    return process


async def _close(child: _Child, process: asyncio.SubprocessTransport) -> None:
    """Wait for a killed child's end and for the rest of its outputs."""
    await child.exited.wait()
    await _wait(child.closed, _READ_SECONDS)
    process.close()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
