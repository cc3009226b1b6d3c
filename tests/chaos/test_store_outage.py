"""The store's server is killed and stays away for five seconds, while calls are in flight."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from agentlightning._internal.clock import monotonic
from agentlightning.gateway.http_upstream import HttpUpstream
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.server import Gateway
from agentlightning.store.client_server import LightningStoreClient
from agentlightning.store.sqlite import SQLiteLightningStore
from agentlightning.types.call import CallRecord
from tests.chaos.callers import Job, TaskCaller, base_url, check, question
from tests.chaos.processes import StoreProcess
from tests.chaos.test_capture_load import asked, reply
from tests.gateway.running import ALL
from tests.support.model_server import ModelServer

pytestmark = pytest.mark.chaos

AGENTS = 20
AWAY_SECONDS = 5.0
PAUSE_SECONDS = 0.05


class Agents:
    """Make call after call until told to stop, each noted with how it ended."""

    def __init__(self, endpoint: str, jobs: list[Job]) -> None:
        self.endpoint = endpoint
        self.jobs = jobs
        self.answered: set[str] = set()
        self.refused: Counter[Any] = Counter()
        self.slowest = 0.0
        self.stopping = False

    async def run(self) -> None:
        caller = TaskCaller(self.endpoint)
        try:
            async with asyncio.TaskGroup() as group:
                for job in self.jobs:
                    group.create_task(self._work(caller, job))
        finally:
            await caller.close()

    async def _work(self, caller: TaskCaller, job: Job) -> None:
        turn = 0
        while not self.stopping:
            started = monotonic()
            try:
                text = await caller.ask(base_url(self.endpoint, job), job, turn)
            except (openai.APIError, anthropic.APIError) as error:
                self.refused[getattr(error, "status_code", None)] += 1
            else:
                check(job, turn, text)
                self.answered.add(question(job, turn))
            self.slowest = max(self.slowest, monotonic() - started)
            # All clients by turns: four kinds of calls.
            turn += 1
            await asyncio.sleep(PAUSE_SECONDS)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("patience", [(1.0, 2.0, 5.0, 15.0), (0.1,)], ids=["patient", "impatient"])
async def test_calls_succeed_late_or_are_refused(
    tmp_path: Path, patience: tuple[float, ...]
) -> None:
    """No answer is without its one record; a client that outlasts the outage hides it, one that
    does not gets errors that say to come again.
    """
    path = tmp_path / "store.db"
    server = StoreProcess(f"sqlite:///{path}", tmp_path)
    server.start()
    await server.wait_ready()
    store = LightningStoreClient(
        server.address,
        retry_delays=patience,
        health_retry_delays=(0.1,),
        request_timeout=5.0,
        outage_seconds=sum(patience),
    )
    jobs: list[Job] = []
    for number in range(AGENTS):
        rollout = await store.start_rollout(input=number)
        jobs.append(Job(rollout.rollout_id, rollout.attempt.attempt_id, f"rollout {number}"))
    with ModelServer(reply) as model:
        route = ModelRoute(upstream=HttpUpstream(model.endpoint, capabilities=ALL), model="real-m")
        gateway = Gateway(store, models={"m": route})
        await gateway.start()
        agents = Agents(gateway.endpoint, jobs)
        running = asyncio.create_task(agents.run())
        await asyncio.sleep(1.0)
        before = len(agents.answered)
        server.kill()
        await asyncio.sleep(AWAY_SECONDS)
        during = len(agents.answered)
        server.start()
        await server.wait_ready()
        await asyncio.sleep(4.0)
        agents.stopping = True
        await running
        unrecorded = gateway.stats.unrecorded
        await gateway.stop()
    await store.close()
    server.kill()
    assert before > 0
    assert during - before <= AGENTS, "answers left without a record that could be stored"
    assert len(agents.answered) > during
    if patience == (0.1,):
        # Streams that had begun end in an error event: 200 from Anthropic's client, None from the
        # other.
        assert set(agents.refused) <= {503, 200, None}
        assert agents.refused[503]
        assert agents.refused.total() == unrecorded
    else:
        assert not agents.refused
        assert agents.slowest > 2.0
    await audit(path, jobs, agents, model)


async def audit(path: Path, jobs: list[Job], agents: Agents, model: ModelServer) -> None:
    """Compare the records with what clients got and with what the model server said."""
    sent = {asked(call.request): call for call in model.calls}
    recorded: Counter[str] = Counter()
    store = SQLiteLightningStore(path)
    for job in jobs:
        for span in await store.query_spans(job.rollout_id):
            record = CallRecord.from_span(span)
            assert record is not None
            text = asked(record.request)
            assert text.startswith(f"{job.marker} ")
            assert record.outcome == "ok"
            assert record.choices[0].token_ids == sent[text].token_ids[0]
            recorded[text] += 1
    await store.close()
    assert set(recorded.values()) == {1}
    assert agents.answered <= set(recorded)
