"""Budgets: the pure rule, and what clients and records see of it."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest

from agentlightning.errors import BudgetExceededError, ConfigurationError
from agentlightning.gateway.budget import CallBudget, Spending, tokens_of
from agentlightning.gateway.price import TokenPrice
from agentlightning.types.call import CallChoice, CallRecord
from tests.gateway.running import HELLO, Running, running
from tests.support.model_server import Answer, ModelServer


@pytest.mark.parametrize(
    ("limits", "spent", "limit"),
    [
        ({"calls": 2}, Spending(calls=2), "2 calls"),
        ({"tokens": 10}, Spending(tokens=11), "10 tokens"),
        ({"seconds": 5.0}, Spending(since=95.0), "5 seconds"),
        ({"cost": 0.5}, Spending(cost=0.51), "0.5 in cost"),
    ],
)
def test_a_limit_that_is_reached_is_named(limits: Any, spent: Spending, limit: str) -> None:
    """The refusal says which limit it was."""
    with pytest.raises(BudgetExceededError, match=limit):
        CallBudget(**limits).check(spent, now=100.0)


def test_below_its_limits_an_attempt_goes_on() -> None:
    """Nothing is refused before a limit, nor without one, nor at the first call."""
    budget = CallBudget(calls=2, tokens=10, seconds=5.0, cost=0.5)
    budget.check(Spending(calls=1, tokens=9, since=95.1, cost=0.49), now=100.0)
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


def test_the_longest_answer_is_what_is_left() -> None:
    """The tighter of tokens and cost counts; a model without a price is bounded by tokens only."""
    budget = CallBudget(tokens=100, cost=0.001)
    spent = Spending(tokens=70, cost=0.0005)
    price = TokenPrice(input=0.0, output=50.0)
    assert budget.longest_answer(spent, price) == 10
    assert budget.longest_answer(spent, None) == 30
    assert budget.longest_answer(Spending(tokens=99, cost=0.00099999), price) == 1
    assert CallBudget(calls=1, seconds=1).longest_answer(spent, price) is None
    free = TokenPrice(input=1.0, output=0.0)
    assert CallBudget(cost=1.0).longest_answer(spent, free) is None


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


@pytest.mark.parametrize("stream", [False, True])
async def test_cost_is_counted_over_calls(server: ModelServer, stream: bool) -> None:
    """Calls are made until the money is used up; the refusal and its record are typed."""
    server.script = Answer(cached_tokens=1)
    price = TokenPrice(input=2.0, cached_input=1.0, output=4.0)
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if stream else {}
    async with (
        running(server, trained=False, price=price, budget=CallBudget(cost=0.0001)) as run,
        run.client() as client,
    ):
        calls, caught = 0, None
        while caught is None and calls < 100:
            try:
                answer: Any = await client.chat.completions.create(
                    model="m", messages=HELLO, stream=stream, **options
                )
                async for _ in answer if stream else _nothing():
                    pass
                calls += 1
            except openai.BadRequestError as error:
                caught = error
        records = await run.records()
    (*made, refused) = records
    sent = server.calls[0]
    each = 2 * (len(sent.prompt_token_ids) - 1) + 1 + 4 * len(sent.token_ids[0])
    assert calls == len(made) == -(-100 // each)
    assert caught is not None
    assert caught.code == refused.error_code == "budget_exceeded"
    assert "0.0001 in cost" in caught.message


async def _nothing() -> AsyncIterator[None]:
    return
    yield


async def test_a_budget_of_money_needs_a_price(server: ModelServer) -> None:
    """Prices that were forgotten are told before the first call."""
    with pytest.raises(ConfigurationError, match="no model has a price"):
        async with running(server, budget=CallBudget(cost=1.0)):
            pass
    with pytest.raises(ConfigurationError, match="below 0"):
        TokenPrice(input=1.0, output=-1.0)


async def test_anthropic_clients_read_the_refusal_too(server: ModelServer) -> None:
    """Both formats share an attempt's budget."""
    async with running(server, budget=CallBudget(calls=1)) as run:
        await ask(run)
        async with anthropic.AsyncAnthropic(base_url=run.attempt_url, api_key="k") as client:
            with pytest.raises(anthropic.BadRequestError, match="budget of 1 calls"):
                await client.messages.create(model="m", max_tokens=8, messages=HELLO)
