"""Responses out of records."""

from typing import Any

from agentlightning.gateway.dialects.responses_memory import ResponseMemory
from agentlightning.gateway.dialects.responses_record import recall, response_of
from agentlightning.types.call import CallChoice, CallRecord


def call(name: str, text: str = "a", **more: Any) -> CallRecord:
    request: dict[str, Any] = {"model": "m", "input": f"ask {name}", **more.pop("request", {})}
    message = {"role": "assistant", "content": text}
    given: dict[str, Any] = {
        "call_id": f"ca-{name}",
        "rollout_id": "r",
        "attempt_id": "a",
        "response_id": name,
        "request": request,
        "model": "m",
        "choices": [CallChoice(message=message, finish_reason="stop")],
        "start_time": 10.5,
        "end_time": 11.5,
    }
    return CallRecord(**{**given, **more})


def test_a_record_gives_its_response() -> None:
    """Text, times, status and usage are those of the call."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    response = response_of(call("resp_1", usage=usage))
    assert (response["id"], response["status"]) == ("resp_1", "completed")
    assert (response["created_at"], response["completed_at"]) == (10, 11)
    assert response["output"][0]["content"][0]["text"] == "a"
    assert response["usage"]["input_tokens"] == 3


def test_an_answer_that_was_cut_off() -> None:
    """One that ended at its limit is incomplete, and has no time of completion."""
    choice = CallChoice(message={"role": "assistant", "content": "a"}, finish_reason="length")
    response = response_of(call("resp_1", choices=[choice]))
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["completed_at"] is None


def test_what_is_recalled() -> None:
    """Answered calls that were to be stored, in their order, each once."""
    memory = ResponseMemory()
    more: dict[str, Any] = {"request": {"previous_response_id": "resp_1"}}
    missing: dict[str, Any] = {"request": {"input": [{"type": "item_reference", "id": "msg_gone"}]}}
    calls = [
        call("resp_2", "b", end_time=12.0, **more),
        call("resp_1"),
        call("resp_3", request={"store": False}),
        call("resp_4", outcome="error"),
        call("resp_5", choices=[]),
        call("resp_6", response_id=None),
        call("resp_7", **missing),
    ]
    recall(memory, calls, "r/a")
    recall(memory, calls, "r/a")
    history = memory.history("resp_2", "r/a")
    assert history is not None
    texts = [it["content"] for it in history]
    assert [texts[0], texts[2]] == ["ask resp_1", "ask resp_2"]
    assert [texts[1][0]["text"], texts[3][0]["text"]] == ["a", "b"]
    assert memory.history("resp_2", "other") is None
    assert not any(memory.has_seen(f"resp_{at}") for at in range(3, 8))
