"""Captured calls of every wire format become triplets of one shape."""

from agentlightning.adapter import LlmProxyTraceToTriplet, TracerTraceToTriplet
from agentlightning.adapter.call_triplet import call_to_triplet, prompt_of
from agentlightning.types import CallChoice
from tests.support.spans import make_call

IMAGE = {"type": "image_url", "image_url": {"url": "http://h/i.png"}}
CHAT = [
    {"role": "system", "content": "rules"},
    {"role": "user", "content": [{"type": "text", "text": "what is it?"}, IMAGE]},
]


def test_the_chat_form_of_another_format_is_read():
    """An Anthropic call's triplet has chat messages, its images, and the parameters of the chat."""
    call = make_call(
        "ca-1",
        dialect="anthropic.messages",
        request={"system": "rules", "messages": [{"role": "user", "content": []}]},
        chat_request={"model": "m", "messages": CHAT, "max_tokens": 9},
        role="seer",
    )
    (triplet,) = TracerTraceToTriplet().adapt([call.to_span()])
    assert triplet.prompt == {
        "token_ids": [10, 11],
        "raw_content": CHAT,
        "image_urls": ["http://h/i.png"],
    }
    assert triplet.response["raw_content"] == [{"role": "assistant", "content": "answer"}]
    assert triplet.metadata["request"] == {"model": "m", "max_tokens": 9}
    assert triplet.metadata["agent_name"] == "seer"


def test_a_plain_completion_asks_with_a_text():
    """Where there is no chat form, what the client sent is the prompt."""
    call = make_call("ca-1", dialect="openai.completions", request={"prompt": "Once", "n": 1})
    triplet = call_to_triplet(call, "*")
    assert triplet.prompt["raw_content"] == "Once"
    assert triplet.metadata["request"] == {"n": 1}
    assert triplet.metadata["agent_name"] == "*"


def test_a_call_without_anything():
    """A record without prompt and answer gives an empty triplet."""
    call = make_call("ca-1", request={}, choices=[])
    assert prompt_of(call) == []
    assert call_to_triplet(call, "*").response == {"token_ids": [], "raw_content": []}


def test_several_prompts_in_one_call():
    """The triplet has the prompt that its answer is of."""
    choice = CallChoice(message={"content": "a"}, prompt_token_ids=[7], token_ids=[8])
    call = make_call("ca-1", prompt_token_ids=[], choices=[choice])
    spans = [call.to_span()]
    (triplet,) = TracerTraceToTriplet().adapt(spans)
    assert (triplet.prompt["token_ids"], triplet.response["token_ids"]) == ([7], [8])
    assert LlmProxyTraceToTriplet().adapt(spans)[0].prompt["token_ids"] == [7]


def test_calls_without_an_answer_make_no_triplet():
    """A call that ended well and brought no choice, such as an embedding, is not learnt from."""
    spans = [make_call("ca-1", choices=[]).to_span(), make_call("ca-2").to_span()]
    (triplet,) = TracerTraceToTriplet().adapt(spans)
    assert triplet.metadata["response_id"] == "resp-ca-2"
