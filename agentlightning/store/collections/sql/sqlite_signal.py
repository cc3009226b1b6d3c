"""Hearing of what others committed to the same SQLite file, at once.

Every open store that waits for something has a datagram socket in a folder that stands for the
file; whoever commits events sends each of them a byte. The folder is in the system's folder for
temporary files and belongs to one user. Where there are no such sockets, the file's version is
looked at many times a second instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol
from uuid import uuid4

from agentlightning._internal.clock import now
from agentlightning.store.collections.sql.sqlite_connection import SqliteConnection

logger = logging.getLogger(__name__)

_YOUNG_SECONDS: Final = 0.1
"""A folder that changed so lately may change again without looking changed."""
_LOOK_SECONDS: Final = 0.05
_STOP_SECONDS: Final = 10.0
_BIND_TRIES: Final = 5
_HAS_SOCKETS: Final = hasattr(socket, "AF_UNIX") and hasattr(os, "getuid")


def folder_of(path: Path) -> Path:
    """Return the folder of the sockets for a database file; the same in every process."""
    status = path.stat()
    owner = os.getuid() if _HAS_SOCKETS else 0
    identity = f"{status.st_dev}/{status.st_ino}"
    name = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir()) / f"agentlightning-{owner}" / name


def _make_private(folder: Path) -> None:
    """Make a folder that only this user may enter.

    Raises:
        OSError: Somebody else has it.
    """
    for part in (folder.parent, folder):
        with contextlib.suppress(FileExistsError):
            part.mkdir(mode=0o700)
        status = part.lstat()
        if part.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise PermissionError(f"{part} is not this user's alone")


class Teller:
    """Tells the listeners of a file; used under the lock of the connection that writes.

    Args:
        folder: See `folder_of`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._changed = 0
        self._listeners: list[str] = []
        self.own: set[str] = set()
        """Names of this store's own sockets."""
        self._socket: socket.socket | None = None

    def tell(self) -> None:
        """Wake everybody else."""
        # Perf: 1 µs where nobody listens, which is so for most files.
        if not os.access(self._folder, os.F_OK):
            return
        try:
            changed = os.stat(self._folder).st_mtime_ns  # noqa: PTH116 - Perf: see above.
        except OSError:
            return
        if changed != self._changed:
            young = now() - changed / 1e9 < _YOUNG_SECONDS
            self._listeners = os.listdir(self._folder)  # noqa: PTH208 - Perf: names suffice.
            self._changed = 0 if young else changed
        for name in self._listeners:
            if name not in self.own:
                self._send(f"{self._folder}/{name}")

    def _send(self, address: str) -> None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        try:
            self._socket.sendto(b"!", address)
        except (BlockingIOError, FileNotFoundError):
            # It has enough to read, or has just gone.
            return
        except OSError:
            # Whoever had it was killed.
            with contextlib.suppress(OSError):
                os.unlink(address)  # noqa: PTH108 - the address is text.

    def close(self) -> None:
        """Close the socket; idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Source(Protocol):
    """Where wake-ups come from."""

    def wait(self) -> bool:
        """Wait for the next; False when there will be none."""
        ...

    def stop(self) -> None:
        """Let `wait` return False; from any thread."""
        ...

    def close(self) -> None:
        """Release everything; from the thread that waits."""
        ...


class _Messages:
    """A socket that others send to."""

    def __init__(self, folder: Path, own: set[str]) -> None:
        self.name = uuid4().hex[:8]
        self._own = own
        self._folder = folder
        self._address = str(folder / self.name)
        self._stopped = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        own.add(self.name)
        try:
            self._bind()
        except OSError:
            own.discard(self.name)
            self._socket.close()
            raise

    def _bind(self) -> None:
        for _ in range(_BIND_TRIES):
            _make_private(self._folder)
            # Whoever leaves last removes the folder, maybe just now.
            with contextlib.suppress(FileNotFoundError):
                self._socket.bind(self._address)
                return
        raise FileNotFoundError(self._address)

    def wait(self) -> bool:
        self._socket.recv(1)
        return not self._stopped

    def stop(self) -> None:
        self._stopped = True
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.sendto(b"!", self._address)

    def close(self) -> None:
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            Path(self._address).unlink()
        with contextlib.suppress(OSError):
            self._folder.rmdir()
        self._own.discard(self.name)


class _Versions:
    """Looks at the file's version, which changes when others write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: SqliteConnection | None = None
        self._stopped = threading.Event()
        self._version = -1

    def wait(self) -> bool:
        if self._connection is None:
            self._connection = SqliteConnection(self._path)
        while not self._stopped.wait(_LOOK_SECONDS):
            ((version,),) = self._connection.run("PRAGMA data_version")
            if version != self._version:
                self._version = version
                return True
        return False

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


class Listener:
    """A thread that is woken by others' commits.

    Args:
        path: The database file.
        own: Gets the name of this listener's socket, so that its own store need not tell it.
        notify: Called from the thread; also once at the beginning, for what came before.
    """

    def __init__(self, path: Path, own: set[str], notify: Callable[[], None]) -> None:
        self._notify = notify
        self._source: _Source = _open(path, own)
        self._thread = threading.Thread(
            target=self._work, name="agentlightning-listener", daemon=True
        )
        self._thread.start()

    def _work(self) -> None:
        try:
            self._notify()
            while self._source.wait():
                self._notify()
        finally:
            self._source.close()

    def stop(self) -> None:
        """End the thread; idempotent."""
        if self._thread.is_alive():
            self._source.stop()
            if self._thread is not threading.current_thread():
                self._thread.join(_STOP_SECONDS)


def _open(path: Path, own: set[str]) -> _Source:
    if _HAS_SOCKETS:
        try:
            return _Messages(folder_of(path), own)
        except OSError as error:
            logger.info("no socket to hear of changes, looking instead", extra={"why": str(error)})
    return _Versions(path)
