"""SecantusDB as a stand-in for MongoDB: the same protocol, in a process of its own.

As a "replica set" it has transactions and change streams; as a "single server" it refuses both,
as MongoDB does.
"""

import re
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

MODES = ("replica set", "single server")


@contextmanager
def mongo_server(folder: Path, mode: str, *options: str, port: int = 0) -> Generator[str]:
    """Run a server and yield its address; it ends as in a crash.

    Args:
        folder: Its data; another server may go on with it later.
        mode: One of `MODES`.
        options: Further command line options.
        port: 0 finds a free one.
    """
    log = folder / f"server-{time.monotonic_ns()}.log"
    command = [sys.executable, "-m", "secantus", "--storage-path", str(folder / "data")]
    command += ["--log-level", "INFO", "--port", str(port), *options]
    if mode == "single server":
        command.append("--standalone")
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield _address(process, log)
    finally:
        process.kill()
        process.wait()


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    while process.poll() is None:
        found = re.search(r"listening on (\S+:\d+)", log.read_text())
        if found:
            return f"mongodb://{found[1]}/"
        time.sleep(0.01)
    raise RuntimeError(f"SecantusDB did not start: {log.read_text()}")
