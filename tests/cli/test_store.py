"""Tests of `agl store`: a real server process, killed and started again under its clients."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentlightning._internal.clock import monotonic
from agentlightning.cli import main
from agentlightning.errors import ConflictError, InvalidRequestError, UnauthorizedError
from agentlightning.store.client_server import LightningStoreClient
from agentlightning.types import EnqueueRolloutRequest, RolloutConfig
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]

LEASE = RolloutConfig(unresponsive_seconds=1.0, max_attempts=3, retry_condition=["unresponsive"])
"""A claim that was stored but not answered before the kill comes back when its lease ends."""


@contextmanager
def store_process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `agl store` and yield the process with the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "agentlightning.cli.store", "--log-level", "WARNING", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("store at http://127.0.0.1:"), line
        yield process, line.removeprefix("store at ").strip()
    finally:
        process.kill()
        process.communicate()


async def test_killed_and_started_again(tmp_path: Path):
    """With -9 and a restart nothing acknowledged is lost, and no client notices."""
    url = f"sqlite:///{tmp_path}/store.db"
    port = str(free_port())
    total = 60
    done: set[str] = set()
    first = store_process("--url", url, "--port", port)
    process, address = await asyncio.to_thread(first.__enter__)
    client = LightningStoreClient(address, retry_delays=(1.0, 2.0, 5.0, 10.0))

    async def algorithm() -> list[str]:
        ids: list[str] = []
        for index in range(total // 10):
            requests = [EnqueueRolloutRequest(input=index, config=LEASE) for _ in range(10)]
            ids += [r.rollout_id for r in await client.enqueue_many_rollouts(requests)]
            await asyncio.sleep(0.1)
        return ids

    async def runner(name: str) -> None:
        while len(done) < total:
            claim = await client.dequeue_rollout(name, wait_seconds=1)
            if claim is not None:
                attempt_id = claim.attempt.attempt_id
                await client.update_attempt(claim.rollout_id, attempt_id, status="succeeded")
                done.add(claim.rollout_id)

    try:
        async with asyncio.timeout(60):
            runners = [asyncio.create_task(runner(f"w-{i}")) for i in range(3)]
            enqueueing = asyncio.create_task(algorithm())
            while len(done) < 15:
                await asyncio.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait)
            second = store_process("--url", url, "--port", port)
            await asyncio.to_thread(second.__enter__)
            try:
                ids = await enqueueing
                await asyncio.gather(*runners)
                assert done == set(ids)
                assert len(set(ids)) == total
                page = await client.query_rollouts(status_in=["succeeded"])
                assert {rollout.rollout_id for rollout in page} == done
            finally:
                second.__exit__(None, None, None)
    finally:
        await client.close()
        first.__exit__(None, None, None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_token_and_a_clean_end(tmp_path: Path, number: signal.Signals):
    """A server with a token file refuses strangers, and a signal ends it with status 0."""
    secret = tmp_path / "token"
    secret.write_text("s3cret\n")
    with store_process("--port", "0", "--token-file", str(secret)) as (process, address):
        friend = LightningStoreClient(address, token="s3cret")
        stranger = LightningStoreClient(address)
        assert (await friend.enqueue_rollout(1)).input == 1
        with pytest.raises(UnauthorizedError):
            await stranger.enqueue_rollout(1)
        waiting = asyncio.create_task(friend.dequeue_many_rollouts(limit=2, wait_seconds=0.1))
        assert len(await waiting) == 1
        await friend.close()
        await stranger.close()
        process.send_signal(number)
        assert await asyncio.to_thread(process.wait, 20) == 0


def test_refusals(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """What cannot work ends with a status and a sentence, and serves nothing."""
    began = monotonic()
    assert main(["store", "--host", "0.0.0.0", "--port", "0"]) == 1
    assert "give a token" in capsys.readouterr().err
    assert main(["store", "--n-workers", "2", "--port", "0"]) == 1
    assert "lives in one process" in capsys.readouterr().err
    assert main(["store", "--port", "70000"]) == 2
    assert main(["store", "--tracker", "prometheus", "nonsense"]) == 2
    assert main(["nonsense"]) == 2
    assert monotonic() - began < 60
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["store", "--port", str(taken.getsockname()[1])]) == 1
    assert "Choose another port" in capsys.readouterr().err


def test_help_and_version(capsys: pytest.CaptureFixture[str]):
    """Help lists the commands and the options, with defaults that are safe."""
    assert main(["--help"]) == 0
    assert "store" in capsys.readouterr().out
    assert main(["store", "--help"]) == 0
    shown = capsys.readouterr().out
    for option in ("--host", "--cors-origin", "--tracker", "--n-workers", "--mongo-uri", "--url"):
        assert option in shown
    assert "127.0.0.1" in shown
    assert main(["--version"]) == 0
    assert "agl" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({}, "memory://"),
        ({"url": "redis://h/0?prefix=p"}, "redis://h/0?prefix=p"),
        ({"backend": "mongo"}, "mongodb://localhost:27017/?replicaSet=rs0"),
        (
            {"backend": "mongo", "mongo_database": "d", "mongo_partition": "p 1"},
            "mongodb://localhost:27017/d?replicaSet=rs0&partition=p+1",
        ),
        (
            {
                "backend": "mongo",
                "mongo_uri": "mongodb://u:p%40@a,b:1/x?partition=old&tls=true",
                "mongo_partition": "new",
            },
            "mongodb://u:p%40@a,b:1/x?tls=true&partition=new",
        ),
    ],
)
def test_options_name_the_store(options: dict[str, Any], url: str):
    """Every option about the backend reaches the store's address."""
    from agentlightning.cli.store import store_url

    given: dict[str, Any] = {"url": None, "backend": "memory", **options}
    assert store_url(**given) == url


@pytest.mark.parametrize(
    "words",
    [
        ("--url", "memory://", "--backend", "mongo"),
        ("--url", "memory://", "--mongo-database", "d"),
        ("--mongo-partition", "p"),
    ],
)
def test_two_stores_are_refused(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    """Options that contradict one another are refused before anything is opened."""
    assert main(["store", *words]) == 2
    assert "--mongo-" in capsys.readouterr().err


async def test_run_id_and_body_limit():
    """Clients of another run and requests over the limit are refused."""
    with store_process("--port", "0", "--run-id", "a", "--body-limit", "2000") as (_, address):
        ours = LightningStoreClient(address, run_id="a")
        theirs = LightningStoreClient(address, run_id="b")
        assert (await ours.enqueue_rollout("x" * 1000)).input == "x" * 1000
        with pytest.raises(ConflictError, match="run 'a'"):
            await theirs.statistics()
        with pytest.raises(InvalidRequestError, match="2000 bytes"):
            await ours.enqueue_rollout("x" * 2000)
        await ours.close()
        await theirs.close()


def test_several_trackers_after_one_option():
    """The spelling of 0.3.0, with several values after one option, is understood."""
    from agentlightning.cli.store import store

    context = store.make_context(
        "store", ["--tracker", "prometheus", "console", "--port", "0"], resilient_parsing=True
    )
    assert context.params["tracker"] == ("prometheus", "console")
    assert context.params["port"] == 0
