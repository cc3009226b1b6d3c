"""Sealing against the real gateway."""

from typing import Any

import openai
import pytest

from agentlightning.litagent import LitAgent
from agentlightning.runner.seal import Sealer, SealReport
from agentlightning.types import LLM, Attempt, ProxyLLM
from tests.gateway.running import HELLO, running
from tests.runner.test_agent import enqueue, finished
from tests.support.model_server import Answer, ModelServer

ATTEMPT = Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=0.0)


class Calling(LitAgent[Any]):
    """Makes as many model calls as its task says, through its attempt's URL."""

    async def rollout_async(self, task, resources, rollout):
        from openai import AsyncOpenAI

        url = resources["llm"].get_base_url(rollout.rollout_id, rollout.attempt.attempt_id)
        async with AsyncOpenAI(base_url=url, api_key="k") as client:
            for _ in range(task):
                await client.chat.completions.create(model="m", messages=HELLO)
        return 1.0


async def test_the_manifest_counts_the_calls(store, working):
    """Each settled attempt says how many calls the gateway served for it."""
    with ModelServer() as server:
        async with running(server, store) as gateway:
            await store.add_resources(
                {"llm": ProxyLLM(endpoint=gateway.gateway.endpoint, model="m")}
            )
            ids = await enqueue(store, [3, 0])
            async with working(Calling(), concurrency=2):
                done = await finished(store, ids)
    calls = [item.attempt.metadata["manifest"]["calls"] for item in done]
    none = {"started": 0, "finished": 0, "failed": 0, "cancelled": 0}
    assert calls == [{**none, "started": 3, "finished": 3}, none]


async def test_a_secret_gateway_is_sealed_with_its_key():
    """The key of the resource opens the seal route of a gateway with a secret."""
    with ModelServer() as server:
        async with running(server, secret="s3") as gateway, Sealer() as sealer:
            endpoint = gateway.gateway.endpoint
            known = {"llm": ProxyLLM(endpoint=endpoint, model="m", api_key="s3")}
            unknown = {"llm": ProxyLLM(endpoint=endpoint, model="m")}
            assert (await sealer.seal(known, ATTEMPT, timeout=20.0)).calls is not None
            assert (await sealer.seal(unknown, ATTEMPT, timeout=20.0)).calls is None


async def test_other_endpoints_have_no_counts():
    """A plain model server, a dead port and a plain LLM give no counts, and no error; only the dead
    port is reported as lost.
    """
    with ModelServer() as server:
        async with Sealer() as sealer:
            for llm, is_lost in (
                (ProxyLLM(endpoint=server.endpoint, model="m"), False),
                (ProxyLLM(endpoint="http://127.0.0.1:1/v1", model="m"), True),
                (LLM(endpoint=server.endpoint, model="m"), False),
            ):
                report = await sealer.seal({"llm": llm}, ATTEMPT, timeout=0.2)
                assert report == SealReport(errors={}, is_gateway_lost=is_lost)
                assert report.manifest() == {"calls": None}


async def test_errors_are_counted_by_class():
    """A seal says how often calls failed, and of what."""
    with ModelServer(Answer(status=429)) as server:
        async with running(server) as gateway, Sealer() as sealer:
            async with gateway.client() as client:
                for _ in range(2):
                    with pytest.raises(openai.RateLimitError):
                        await client.chat.completions.create(model="m", messages=HELLO)
            llm = ProxyLLM(endpoint=gateway.gateway.endpoint, model="m")
            attempt = ATTEMPT.model_copy(
                update={"rollout_id": gateway.rollout_id, "attempt_id": gateway.attempt_id}
            )
            report = await sealer.seal({"llm": llm}, attempt, timeout=20.0)
    assert report.manifest() == {
        "calls": {"started": 2, "finished": 0, "failed": 2, "cancelled": 0},
        "errors": {"rate_limited": 2},
    }
