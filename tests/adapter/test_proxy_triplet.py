"""Triplets are built from what model proxies record."""

from agentlightning.adapter import LlmProxyTraceToTriplet
from agentlightning.types import Span
from tests.support.spans import make_call, make_reward_span, make_span


def proxy_span(span_id: str, sequence_id: int, **given) -> Span:
    attributes = {
        "llm__hosted_vllm__prompt_token_ids": "[1, 2]",
        "llm__hosted_vllm__response_token_ids": "[[3, 4]]",
        "llm__hosted_vllm__id": f"id-{span_id}",
        **given,
    }
    kept = {key: value for key, value in attributes.items() if value is not None}
    return make_span(span_id, name="raw_gen_ai_request", sequence_id=sequence_id, **kept)


def summary(spans):
    return [
        (t.prompt["token_ids"], t.response["token_ids"], t.metadata["response_id"], t.reward)
        for t in LlmProxyTraceToTriplet().adapt(spans)
    ]


def test_litellm_in_front_of_vllm():
    """Ids are read from each of the shapes LiteLLM writes, in order of the sequence ids."""
    choices = "[{'token_ids': [6]}]"
    spans = [
        proxy_span(
            "b",
            2,
            llm__hosted_vllm__response_token_ids=None,
            llm__hosted_vllm__choices=choices,
        ),
        proxy_span("a", 1),
        make_span(
            "c",
            name="litellm_request",
            sequence_id=3,
            prompt_token_ids=[7],
            response_token_ids=[8],
            gen_ai__response__id="id-c",
        ),
    ]
    assert summary(spans) == [
        ([1, 2], [3, 4], "id-a", None),
        ([1, 2], [6], "id-b", None),
        ([7], [8], "id-c", None),
    ]


def test_calls_without_ids_and_repetitions_are_left_out():
    """A call needs ids for prompt and response, and counts once per response id."""
    spans = [
        proxy_span("a", 1),
        proxy_span("b", 2, llm__hosted_vllm__id="id-a"),
        proxy_span("c", 3, llm__hosted_vllm__response_token_ids="[[]]"),
        proxy_span("d", 4, llm__hosted_vllm__prompt_token_ids="not ids"),
        make_span("e", name="other", prompt_token_ids=[1], response_token_ids=[2]),
    ]
    assert [row[2] for row in summary(spans)] == ["id-a"]


def test_rewards_go_to_the_latest_call_before_them():
    """By sequence id, a reward finds the latest call without one."""
    spans = [
        proxy_span("a", 1),
        proxy_span("b", 3),
        make_reward_span("r1", 0.5, 0, sequence_id=4),
        make_reward_span("r2", 0.25, 0, sequence_id=5),
        make_reward_span("r0", 9.0, 0, sequence_id=0),
    ]
    assert [(row[2], row[3]) for row in summary(spans)] == [("id-a", 0.25), ("id-b", 0.5)]


def test_gateway_calls():
    """Our gateway's calls are read, judges left out."""
    spans = [make_call("ca-1").to_span(), make_call("ca-2", trained=False).to_span()]
    assert summary(spans) == [([10, 11], [12, 13], "resp-ca-1", None)]
