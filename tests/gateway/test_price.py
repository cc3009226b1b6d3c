"""Prices: what calls cost."""

from typing import Any

import pytest

from agentlightning.gateway.price import TokenPrice
from agentlightning.types.call import CallChoice, CallRecord

PRICE = TokenPrice(input=2.0, cached_input=0.5, output=8.0)


def call(usage: dict[str, Any], **more: Any) -> CallRecord:
    ids: dict[str, Any] = {"call_id": "c", "rollout_id": "r", "attempt_id": "a"}
    return CallRecord(**ids, usage=usage, start_time=0.0, end_time=1.0, **more)


def test_usage_is_priced_by_kind() -> None:
    """Fresh and cached parts of the prompt and the answer have prices of their own."""
    usage: dict[str, Any] = {"prompt_tokens": 1000, "completion_tokens": 10}
    assert PRICE.cost_of(call(usage)) == pytest.approx(0.00208)
    usage["prompt_tokens_details"] = {"cached_tokens": 400}
    assert PRICE.cost_of(call(usage)) == pytest.approx((1200 + 200 + 80) / 1e6)
    flat = TokenPrice(input=2.0, output=8.0)
    assert flat.cost_of(call(usage)) == pytest.approx(0.00208)


def test_ids_count_where_the_server_says_nothing() -> None:
    """A call that broke off is paid for as far as it came; broken usage is none."""
    choices = [CallChoice(token_ids=[1, 2])]
    broken = call({"prompt_tokens": None}, prompt_token_ids=[1, 2, 3], choices=choices)
    assert PRICE.cost_of(broken) == pytest.approx((3 * 2 + 2 * 8) / 1e6)
    assert PRICE.cost_of(call({})) == 0.0


def test_what_money_buys() -> None:
    """Money buys answers at their price; free answers are not bounded."""
    assert PRICE.output_for(0.001) == 125
    assert TokenPrice(input=1.0, output=0.0).output_for(0.001) is None
