"""Many agents at once, with every kind of client: nothing is lost, and nothing is mixed up."""

import asyncio
import json
import multiprocessing
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.server import Gateway
from agentlightning.store.sqlite import SQLiteLightningStore
from agentlightning.types.call import CallRecord
from tests.chaos.callers import (
    CALLS,
    Job,
    Told,
    call_in_process,
    call_in_tasks,
    call_in_threads,
    question,
)
from tests.gateway.running import ALL
from tests.support.model_server import Answer, ModelServer, SentCall

pytestmark = pytest.mark.chaos

ROLLOUTS = 1000
TASKS, THREADS, PROCESSES, TASKS_PER_PROCESS = 60, 40, 2, 50
"""200 rollouts at once, in all."""


def asked(request: dict[str, Any]) -> str:
    """Return the question of a call, in whichever format it was asked."""
    content = request["messages"][0]["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def reply(request: dict[str, Any]) -> Answer:
    return Answer(text=f"re: {asked(request)}")


async def make_jobs(store: SQLiteLightningStore) -> list[Job]:
    jobs: list[Job] = []
    for number in range(ROLLOUTS):
        rollout = await store.start_rollout(input=number)
        jobs.append(Job(rollout.rollout_id, rollout.attempt.attempt_id, f"rollout {number}"))
    return jobs


async def call_from_everywhere(endpoint: str, jobs: list[Job], folder: Path) -> list[Told]:
    """Spread the jobs over tasks, threads and processes by how many of these there are."""
    size = len(jobs) // (TASKS + THREADS + PROCESSES * TASKS_PER_PROCESS)
    starts = (0, TASKS * size, (TASKS + THREADS) * size)
    context = multiprocessing.get_context("spawn")
    share = (len(jobs) - starts[2]) // PROCESSES
    processes: list[tuple[Any, Path]] = []
    for number in range(PROCESSES):
        first = starts[2] + number * share
        mine = jobs[first:] if number == PROCESSES - 1 else jobs[first : first + share]
        path = folder / f"process-{number}.json"
        args = (endpoint, mine, TASKS_PER_PROCESS, path)
        processes.append((context.Process(target=call_in_process, args=args), path))
    for process, _ in processes:
        process.start()
    wait = call_in_threads(endpoint, jobs[starts[1] : starts[2]], THREADS)
    told = await call_in_tasks(endpoint, jobs[: starts[1]], TASKS)
    told += await asyncio.to_thread(wait)
    for process, path in processes:
        await asyncio.to_thread(process.join)
        assert process.exitcode == 0
        told += [Told(**each) for each in json.loads(path.read_text())]
    return told


def check_record(record: CallRecord, job: Job, sent: dict[str, SentCall]) -> str:
    """Check one record against the model server's log, and return its question."""
    text = asked(record.request)
    call = sent[text]
    assert (record.rollout_id, record.attempt_id) == (job.rollout_id, job.attempt_id)
    assert (record.outcome, record.missing, record.retry) == ("ok", [], 0)
    assert record.prompt_token_ids == call.prompt_token_ids
    (choice,) = record.choices
    assert choice.token_ids == call.token_ids[0]
    assert choice.logprobs == call.logprobs[0]
    assert (choice.message or {})["content"] == f"re: {text}"
    return text


@pytest.mark.timeout(300)
async def test_a_thousand_rollouts_at_once_lose_and_mix_nothing(tmp_path: Path) -> None:
    """Each of 5,000 answers has one record, in its own attempt, with the ids that the model server
    logged for it; the manifests say the same.
    """
    store = SQLiteLightningStore(tmp_path / "store.db")
    jobs = await make_jobs(store)
    with ModelServer(reply) as model:
        route = ModelRoute(upstream=HttpUpstream(model.endpoint, capabilities=ALL), model="real-m")
        gateway = Gateway(store, models={"m": route})
        await gateway.start()
        told = await call_from_everywhere(gateway.endpoint, jobs, tmp_path)
        stats = gateway.stats
        await gateway.stop()
    assert (stats.recorded, stats.unrecorded, stats.unattributed) == (ROLLOUTS * CALLS, 0, 0)
    assert len(model.calls) == ROLLOUTS * CALLS
    sent = {asked(call.request): call for call in model.calls}
    assert len(sent) == ROLLOUTS * CALLS
    whole = {"started": CALLS, "finished": CALLS, "failed": 0, "cancelled": 0}
    assert Counter(each.marker for each in told) == Counter(job.marker for job in jobs)
    for each in told:
        assert each.manifest == {"calls": whole, "unrecorded": 0, "errors": {}}
    dialects: Counter[tuple[str, bool]] = Counter()
    for job in jobs:
        spans = await store.query_spans(job.rollout_id)
        records = [record for span in spans if (record := CallRecord.from_span(span))]
        texts = [check_record(record, job, sent) for record in records]
        assert sorted(texts) == [question(job, turn) for turn in range(CALLS)]
        dialects.update((record.dialect, record.stream) for record in records)
    await store.close()
    assert dialects == {
        ("openai.chat", False): 2 * ROLLOUTS,
        ("openai.chat", True): ROLLOUTS,
        ("anthropic.messages", False): ROLLOUTS,
        ("anthropic.messages", True): ROLLOUTS,
    }
