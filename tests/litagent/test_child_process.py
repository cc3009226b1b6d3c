"""Child processes: captured, limited, and gone afterwards."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from agentlightning.litagent.child_process import run_child

ROOT = Path(__file__).resolve().parents[2]
PATH = {"PATH": os.environ["PATH"]}


async def shell(script: str, directory: Path, **options):
    return await run_child(
        ["/bin/sh", "-c", script], environment=PATH, directory=directory, **options
    )


async def gone(pid: int) -> bool:
    """Wait for a process to be gone or, orphaned, to wait for whoever adopted it."""
    for _ in range(500):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        await asyncio.sleep(0.01)
    return False


async def written(path: Path) -> int:
    """Wait for a process id in a file."""
    for _ in range(1000):
        if path.is_file() and path.read_text().endswith("\n"):
            return int(path.read_text())
        await asyncio.sleep(0.01)
    raise AssertionError(f"nobody wrote {path}")


async def test_outputs_and_code_are_returned(tmp_path):
    """Both outputs come apart, with the exit code; input is empty unless given."""
    child = await shell("cat; echo out; echo err >&2; exit 3", tmp_path)
    assert (child.exit_code, child.stdout, child.stderr) == (3, "out\n", "err\n")
    assert not child.timed_out
    child = await shell("cat", tmp_path, stdin="näh" * 100_000)
    assert child.stdout == ("näh" * 100_000)[-len(child.stdout) :]
    assert child.cut_bytes == 400_000 - 65536


async def test_a_child_that_does_not_read_its_input_is_fine(tmp_path):
    """Unread input is no error."""
    assert (await shell("exit 0", tmp_path, stdin="x" * 1_000_000)).exit_code == 0


async def test_only_the_end_of_outputs_is_kept(tmp_path):
    """A talkative child fills no memory, and is not blocked."""
    child = await shell("yes | head -c 3000000; echo end", tmp_path, output_limit=1000)
    assert len(child.stdout) == 1000
    assert child.stdout.endswith("end\n")
    assert child.cut_bytes == 3_000_004 - 1000


async def test_nothing_but_the_given_environment_is_seen(tmp_path, monkeypatch):
    """The environment is what was given, and the directory is the one asked for."""
    monkeypatch.setenv("SECRET", "s")
    program = [sys.executable, "-c", "import os; print(os.getcwd(), os.environ.get('SECRET'))"]
    child = await run_child(program, environment={}, directory=tmp_path)
    assert child.stdout == f"{tmp_path} None\n"


async def test_what_a_child_leaves_running_is_killed(tmp_path):
    """A process in the background does not outlive the child, nor keep us waiting."""
    child = await shell("sleep 600 & echo $!", tmp_path)
    assert child.exit_code == 0
    assert await gone(int(child.stdout))


async def test_a_child_that_takes_too_long_is_stopped(tmp_path):
    """It is asked to end, which it may do by itself; its output is kept."""
    script = "trap 'echo bye; exit 7' TERM; echo hello; sleep 600 & wait"
    child = await shell(script, tmp_path, timeout_seconds=1.0)
    assert child.timed_out
    assert child.stdout == "hello\nbye\n"
    assert child.exit_code == 7


async def test_a_child_that_will_not_end_is_killed(tmp_path):
    """One that ignores the request is killed with all that it has started."""
    script = "trap '' TERM; sleep 600 & echo $! > pid; wait"
    child = await shell(script, tmp_path, timeout_seconds=0.5)
    assert child.timed_out
    assert child.exit_code == -signal.SIGKILL
    assert await gone(await written(tmp_path / "pid"))


async def test_a_cancelled_run_leaves_nothing(tmp_path):
    """The child is gone when the cancellation comes through."""
    task = asyncio.create_task(shell("echo $$ > pid; sleep 600", tmp_path))
    pid = await written(tmp_path / "pid")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await gone(pid)
    assert [path.name for path in tmp_path.iterdir()] == ["pid"]


async def test_a_child_does_not_outlive_us(tmp_path):
    """When the process that runs it is killed with -9, child and grandchild go, too."""
    program = (
        "import asyncio; from pathlib import Path;"
        "from agentlightning.litagent.child_process import run_child;"
        "command = ['/bin/sh', '-c', 'echo $$ > pid; sleep 600 & echo $! > pid2; wait'];"
        f"asyncio.run(run_child(command, environment={PATH!r}, directory=Path('.')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment) as parent:
        pids = [await written(tmp_path / name) for name in ("pid", "pid2")]
        parent.kill()
    for pid in pids:
        assert await gone(pid)


async def test_a_process_that_leaves_the_group_does_not_keep_us_waiting(tmp_path):
    """A daemon that holds the output open is not waited for."""
    started = time.monotonic()
    daemon = "import os, time\nif os.fork() == 0:\n os.setsid(); print(os.getpid(), flush=True)\n"
    child = await run_child(
        [sys.executable, "-c", daemon + " time.sleep(600)\ntime.sleep(0.3)"],
        environment={},
        directory=tmp_path,
    )
    os.kill(int(child.stdout), signal.SIGKILL)
    assert time.monotonic() - started < 60


async def test_a_program_that_does_not_exist_says_so(tmp_path):
    """The shell's code for it comes through."""
    child = await run_child(["no-such-program"], environment=PATH, directory=tmp_path)
    assert child.exit_code == 127


async def test_two_hundred_at_a_time(tmp_path):
    """Outputs are not mixed, and descriptors are given back."""
    process = psutil.Process()
    before = process.num_fds()
    done = await asyncio.gather(*(shell(f"echo {i}", tmp_path) for i in range(200)))
    assert [child.stdout for child in done] == [f"{i}\n" for i in range(200)]
    assert process.num_fds() <= before + 2
