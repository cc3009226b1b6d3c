"""Budgets: the pure rule, and what clients and records see of it."""

from typing import Any

import anthropic
import openai
import pytest

from agentlightning.errors import BudgetExceededError, ConfigurationError
from agentlightning.gateway.budget import CallBudget, Spending, tokens_of
from agentlightning.types.call import CallChoice, CallRecord
from tests.gateway.running import HELLO, Running, running
from tests.support.model_server import ModelServer


@pytest.mark.parametrize(
    ("limits", "spent", "limit"),
    [
        ({"calls": 2}, Spending(calls=2), "2 calls"),
        ({"tokens": 10}, Spending(tokens=11), "10 tokens"),
        ({"seconds": 5.0}, Spending(since=95.0), "5 seconds"),
    ],
)
def test_a_limit_that_is_reached_is_named(limits: Any, spent: Spending, limit: str) -> None:
    """The refusal says which limit it was."""
    with pytest.raises(BudgetExceededError, match=limit):
        CallBudget(**limits).check(spent, now=100.0)


def test_below_its_limits_an_attempt_goes_on() -> None:
    """Nothing is refused before a limit, nor without one, nor at the first call."""
    budget = CallBudget(calls=2, tokens=10, seconds=5.0)
    budget.check(Spending(calls=1, tokens=9, since=95.1), now=100.0)
    budget.check(Spending(), now=100.0)
    CallBudget().check(Spending(calls=10**6, tokens=10**9, since=0.0), now=10**9)


def test_time_counts_from_the_first_call() -> None:
    """Later calls do not move the start."""
    spent = Spending()
    spent.admit(now=1.0)
    spent.admit(now=2.0)
    assert spent == Spending(calls=2, since=1.0)


def test_limits_of_nothing_are_refused() -> None:
    """A budget of no calls is a mistake."""
    with pytest.raises(ConfigurationError, match="above 0"):
        CallBudget(calls=0)


def test_tokens_come_from_ids_or_else_from_usage() -> None:
    """What was recorded exactly counts before what the server says."""
    bare: dict[str, Any] = {"call_id": "c", "rollout_id": "r", "attempt_id": "a"}
    times = {"start_time": 0.0, "end_time": 0.0}
    usage = {"total_tokens": 7}
    exact = CallRecord(
        **bare, **times, usage=usage, prompt_token_ids=[1, 2], choices=[CallChoice(token_ids=[3])]
    )
    assert tokens_of(exact) == 3
    assert tokens_of(CallRecord(**bare, **times, usage=usage)) == 7
    assert tokens_of(CallRecord(**bare, **times, usage={"total_tokens": None})) == 0


async def ask(run: Running) -> str:
    async with run.client(max_retries=5) as client:
        answer = await client.chat.completions.create(model="m", messages=HELLO)
        return answer.choices[0].message.content or ""


async def test_calls_past_the_budget_are_refused_and_recorded(server: ModelServer) -> None:
    """The client gets an error that it does not answer with another try; the server is not asked."""
    async with running(server, budget=CallBudget(calls=2)) as run:
        assert [await ask(run), await ask(run)] == ["hello", "hello"]
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(run)
        records = await run.records()
    assert caught.value.code == "budget_exceeded"
    assert "2 calls" in caught.value.message
    assert len(server.calls) == 2
    assert [(r.outcome, r.error_code) for r in records] == [
        ("ok", None),
        ("ok", None),
        ("error", "budget_exceeded"),
    ]


async def test_tokens_are_counted_over_calls(server: ModelServer) -> None:
    """The call that passes the limit is served; the next is not."""
    async with running(server, budget=CallBudget(tokens=1)) as run:
        assert await ask(run) == "hello"
        with pytest.raises(openai.BadRequestError, match="1 tokens"):
            await ask(run)


async def test_anthropic_clients_read_the_refusal_too(server: ModelServer) -> None:
    """Both formats share an attempt's budget."""
    async with running(server, budget=CallBudget(calls=1)) as run:
        await ask(run)
        async with anthropic.AsyncAnthropic(base_url=run.attempt_url, api_key="k") as client:
            with pytest.raises(anthropic.BadRequestError, match="budget of 1 calls"):
                await client.messages.create(model="m", max_tokens=8, messages=HELLO)
