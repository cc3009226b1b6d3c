"""The span of a model call is understood whoever wrote it."""

import json

from agentlightning.adapter.attribute_values import integer_list, nested
from agentlightning.adapter.llm_span import image_urls, to_triplet
from tests.support.spans import make_call, make_llm_span, make_span


def test_instrumented_client():
    """Ids, messages, parameters and log-probabilities of a client's span are read."""
    logprobs = [{"token": "x", "logprob": -0.1}]
    span = make_llm_span("a", logprobs__content=json.dumps(logprobs))
    triplet = to_triplet(span, "solver")
    assert triplet.prompt == {
        "token_ids": [1, 2],
        "raw_content": [{"role": "user", "content": "question"}],
        "image_urls": [],
    }
    assert triplet.response == {
        "token_ids": [3],
        "raw_content": [{"role": "assistant", "content": "answer of a"}],
        "logprobs": logprobs,
    }
    assert triplet.metadata == {
        "request": {"model": "m"},
        "response": {"model": "m-1"},
        "response_id": "resp-a",
        "agent_name": "solver",
    }
    assert triplet.reward is None


def test_operation_around_a_call():
    """A function that returns a completion, recorded as an operation, is read likewise."""
    prefix = "agentlightning__operation__"
    span = make_span(
        "a",
        **{
            f"{prefix}input__messages__0__role": "user",
            f"{prefix}input__messages__0__content": "question",
            f"{prefix}input__temperature": 0.5,
            f"{prefix}output__id": "resp-1",
            f"{prefix}output__model": "m",
            f"{prefix}output__prompt_token_ids": [1, 2],
            f"{prefix}output__choices__0__token_ids": [3],
            f"{prefix}output__choices__0__message__content": "answer",
        },
    )
    triplet = to_triplet(span, "*")
    assert triplet.prompt["token_ids"] == [1, 2]
    assert triplet.prompt["raw_content"] == [{"role": "user", "content": "question"}]
    assert triplet.response["token_ids"] == [3]
    assert triplet.response["raw_content"][0]["message"] == {"content": "answer"}
    assert triplet.metadata["request"] == {"temperature": 0.5}
    assert triplet.metadata["response"] == {"model": "m"}
    assert triplet.metadata["response_id"] == "resp-1"


def test_captured_call():
    """A call of the gateway gives the exact tokens and the label of its role."""
    triplet = to_triplet(make_call("ca-1", role="solver").to_span(), "*")
    assert triplet.prompt["token_ids"] == [10, 11]
    assert triplet.prompt["raw_content"] == [{"role": "user", "content": "question"}]
    assert triplet.response["token_ids"] == [12, 13]
    assert [entry["logprob"] for entry in triplet.response["logprobs"]] == [-0.5, -0.25]
    assert triplet.response["raw_content"] == [{"role": "assistant", "content": "answer"}]
    assert triplet.metadata["request"] == {"model": "policy", "temperature": 0.5}
    assert triplet.metadata["response_id"] == "resp-ca-1"
    assert triplet.metadata["agent_name"] == "solver"


def test_missing_ids_are_empty_lists():
    """A call without token ids is still a triplet."""
    triplet = to_triplet(make_llm_span("a", prompt_token_ids=None, response_token_ids="x"), "*")
    assert triplet.prompt["token_ids"] == []
    assert triplet.response["token_ids"] == []


def test_integer_list():
    """Lists of ids are read from sequences and JSON; anything else is empty."""
    assert integer_list((1, 2)) == [1, 2]
    assert integer_list("[1, 2]") == [1, 2]
    assert integer_list("[1, true]") == []
    assert integer_list("nonsense") == []
    assert integer_list(7) == []


def test_nested_reads_trees_and_values():
    """What is under a prefix is nested, or the value itself, decoded if it is JSON."""
    assert nested({"a.b.0": 1}, "a") == {"b": [1]}
    assert nested({"a": '{"b": 1}'}, "a") == {"b": 1}
    assert nested({"a": "text"}, "a") == "text"
    assert nested({"a": 3}, "a") == 3


def test_image_urls_are_found_in_parts_and_in_json():
    """Images are listed in order, also from contents that were stored as JSON text."""
    parts = [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "http://one"}},
        {"type": "image_url", "image_url": "http://two"},
    ]
    messages = [{"content": parts}, {"content": json.dumps(parts[1:2])}, {"content": "[no"}, 3]
    assert image_urls(messages) == ["http://one", "http://two", "http://one"]
    assert image_urls("nothing") == []
