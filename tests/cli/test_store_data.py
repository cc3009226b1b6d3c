"""`agl store copy`, `check`, `stats` and `prune`, on real files and servers."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentlightning.cli import agl, main
from agentlightning.store.client_server import LightningStoreServer
from agentlightning.store.collections.codec import encode
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.store.sqlite import SQLiteLightningStore
from agentlightning.store.transfer import KINDS
from agentlightning.types import AttemptedRollout, Rollout
from tests.conformance.store_spans import make_span
from tests.conformance.store_upkeep import contents, ended, populate

ROOT = Path(__file__).parents[2]


def agl_store(*words: str) -> tuple[int, str]:
    """Run `agl store` in this process; return its exit status and what it printed."""
    result = CliRunner().invoke(agl, ["store", *words], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.return_value or 0, result.output


@pytest.fixture
def filled(tmp_path: Path) -> str:
    """The URL of a file with something of everything."""
    path = tmp_path / "filled.db"

    async def fill() -> None:
        store = SQLiteLightningStore(path)
        await populate(store)
        await store.close()

    asyncio.run(fill())
    return f"sqlite:///{path}"


async def everything(url: str) -> dict[str, list[str]]:
    store = SQLiteLightningStore(url)
    try:
        return await contents(store)
    finally:
        await store.close()


def test_copy_says_what_it_copied(filled: str, tmp_path: Path):
    """The copy holds the same; the report names every kind with its count and hash."""
    target = f"sqlite:///{tmp_path}/copy.db"
    status, output = agl_store("copy", filled, target)
    assert status == 0
    lines = [line.split() for line in output.splitlines() if line.startswith("  ")]
    assert [line[0] for line in lines] == list(KINDS)
    assert {line[0]: int(line[1]) for line in lines}["spans"] == 7
    assert all(len(line[-1]) == 32 for line in lines)
    assert asyncio.run(everything(filled)) == asyncio.run(everything(target))


def test_copy_refuses_a_full_target_unless_told_to_merge(
    filled: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """Exit status 1 and a sentence; with --merge both stores' records are there."""
    target = f"sqlite:///{tmp_path}/other.db"

    async def fill() -> None:
        store = SQLiteLightningStore(target)
        await ended(store, 2)
        await store.close()

    asyncio.run(fill())
    assert main(["store", "copy", filled, target]) == 1
    assert "holds rollouts already" in capfd.readouterr().err
    assert main(["store", "copy", filled, target, "--merge"]) == 0
    assert len(asyncio.run(everything(target))["rollouts"]) == 9


async def test_copy_to_and_from_a_server(filled: str, tmp_path: Path):
    """A store behind HTTP is copied like any other, with its server's token."""
    served = InMemoryLightningStore(thread_safe=True)
    server = LightningStoreServer(served, port=0, token="secret")
    await server.start()
    back = f"sqlite:///{tmp_path}/back.db"
    try:
        words = ("copy", filled, server.endpoint, "--target-token", "secret")
        assert (await asyncio.to_thread(agl_store, *words))[0] == 0
        words = ("copy", server.endpoint, back, "--source-token", "secret")
        assert (await asyncio.to_thread(agl_store, *words))[0] == 0
        words = ("check", server.endpoint, "--token", "secret")
        assert (await asyncio.to_thread(agl_store, *words))[0] == 0
    finally:
        await server.stop()
        await served.close()
    assert await everything(filled) == await everything(back)


async def test_a_killed_copy_is_finished(tmp_path: Path):
    """Killed with -9 in the middle, the same command finishes; nothing is doubled."""
    source, target = f"sqlite:///{tmp_path}/big.db", f"sqlite:///{tmp_path}/copy.db"
    store = SQLiteLightningStore(source)
    claim = await store.start_rollout("big")
    text = "x" * 4000
    for batch in range(8):
        spans = [make_span(claim, f"{batch}", attributes={"t": f"{text}{i}"}) for i in range(1000)]
        await store.add_many_spans(spans)
    await store.close()
    command = [sys.executable, "-m", "agentlightning.cli", "store", "copy", source, target]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    async with asyncio.timeout(60):
        while not _spans_in(tmp_path / "copy.db"):
            assert process.poll() is None
            await asyncio.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < _spans_in(tmp_path / "copy.db") < 8000
    status, output = await asyncio.to_thread(agl_store, "check", target)
    assert status == 1
    assert "unfinished_copy" in output
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "finishing an interrupted copy" in done.stdout
    assert await everything(source) == await everything(target)


def _spans_in(path: Path) -> int:
    if not path.exists():
        return 0
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT count(*) FROM spans").fetchone()[0]
    except sqlite3.OperationalError:
        return 0
    finally:
        connection.close()


async def test_check_explains_and_repairs(filled: str):
    """A planted fault makes the exit status 1, until --repair has mended it."""
    assert (await asyncio.to_thread(agl_store, "check", filled))[0] == 0
    store = SQLiteLightningStore(filled)
    lost = Rollout(rollout_id="lost", input=1, start_time=1.0)
    await store.import_records("rollouts", [encode(lost)])
    await store.close()
    status, output = await asyncio.to_thread(agl_store, "check", filled)
    assert status == 1
    assert "serious  not_in_line  lost  the rollout is queuing but not in the queue" in output
    status, output = await asyncio.to_thread(agl_store, "check", filled, "--repair")
    assert status == 0
    assert "repaired  not_in_line  lost" in output
    assert (await asyncio.to_thread(agl_store, "check", filled))[0] == 0


def test_stats_counts(filled: str):
    """Counts, for people and as JSON."""
    status, output = agl_store("stats", filled)
    assert status == 0
    assert "rollouts_by_status" in output
    assert "queuing 4" in output
    counts = json.loads(agl_store("stats", filled, "--json")[1])
    assert counts["total_spans"] == 7
    assert counts["queue_length"] == 5


async def test_prune_removes_what_was_read(tmp_path: Path):
    """Limits, metadata, dry runs and the mark work from the command line."""
    url = f"sqlite:///{tmp_path}/store.db"
    store = SQLiteLightningStore(url)
    ids = await ended(store, 3, run_id="a")
    await ended(store, 2, run_id="b")
    await store.mark_read(ids[:2])
    await store.close()

    async def prune(*words: str) -> str:
        status, output = await asyncio.to_thread(agl_store, "prune", url, *words)
        assert status == 0
        return output

    only = ("--metadata", "run_id=a", "--keep-rollouts", "0")
    assert "would remove the spans of 2 rollouts" in await prune(*only, "--dry-run")
    output = await prune(*only)
    assert "removed the spans of 2 rollouts\n4 spans went\n1 more are beyond" in output
    assert "removed 3 rollouts" in await prune(*only, "--what", "rollouts", "--mark-read")
    left = (await everything(url))["rollouts"]
    assert [json.loads(text)["metadata"]["run_id"] for text in left] == ["b", "b"]


async def test_spans_go_to_an_otlp_backend(filled: str):
    """Another store's OTLP address takes the spans that one store sends, once."""
    served = InMemoryLightningStore(thread_safe=True)
    server = LightningStoreServer(served, port=0, token="secret")
    await server.start()
    source = SQLiteLightningStore(filled)
    (rollout,) = await source.query_rollouts(status_in=["running"])
    await source.close()
    assert isinstance(rollout, AttemptedRollout)
    # Its attributes say whose spans they are, so the backend must know the rollout.
    fields = {name: getattr(rollout, name) for name in Rollout.model_fields}
    await served.import_records("rollouts", [encode(Rollout.model_construct(**fields))])
    await served.import_records("attempts", [encode(rollout.attempt)])
    words = ("export-otlp", filled, server.endpoint, "--rollout", rollout.rollout_id)
    try:
        for _ in range(2):
            status, output = await asyncio.to_thread(
                agl_store, *words, "--header", "Authorization=Bearer secret"
            )
            assert status == 0
            assert "sent 5 spans of 1 rollouts" in output
    finally:
        await server.stop()
    assert len(await served.query_spans(rollout.rollout_id)) == 5
    await served.close()


@pytest.mark.parametrize(
    "words",
    [["--what", "spans"], ["--keep-rollouts", "1", "--metadata", "x"], ["--keep-bytes", "-1"]],
)
def test_prune_needs_limits_that_make_sense(
    words: list[str], filled: str, capfd: pytest.CaptureFixture[str]
):
    """No limit, a pair without a value or a negative number is a mistake of the caller."""
    assert main(["store", "prune", filled, *words]) == 2
    assert "Error" in capfd.readouterr().err


def test_the_server_keeps_its_options():
    """The subcommands stand beside the server's own options."""
    status, output = agl_store("--help")
    assert status == 0
    for word in ("--url", "--tracker", "copy", "check", "prune", "stats"):
        assert word in output
