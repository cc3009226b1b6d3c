"""Output items as they build up from pieces that servers send in any order."""

from typing import Any

from agentlightning.gateway.dialects.responses_output import OutputWriter


class Told:
    """Output, and the events that told it."""

    def __init__(self, **options: bool) -> None:
        self.events: list[dict[str, Any]] = []
        plain = {"in_summary": False, "sealed": False, "logprobs": False}
        self.output = OutputWriter("resp_1", self._take, **{**plain, **options})

    def _take(self, kind: str, **members: Any) -> None:
        self.events.append({"type": kind.removeprefix("response."), **members})

    @property
    def kinds(self) -> list[str]:
        """Return the kinds of the events."""
        return [event["type"] for event in self.events]

    def texts(self) -> list[tuple[str, str]]:
        """Return kind and text of each item."""
        return [
            (item["type"], item.get("arguments") or "".join(p["text"] for p in item["content"]))
            for item in self.output.items
        ]


def call(arguments: Any = "{}", **members: Any) -> dict[str, Any]:
    return {"id": "c", "function": {"name": "f", "arguments": arguments}, **members}


def test_turning_from_thoughts_to_texts_and_back() -> None:
    """Each turn begins an item of its own, ended before the next begins."""
    told = Told()
    for say, text in (
        (told.output.think, "a"),
        (told.output.say, "b"),
        (told.output.think, "c"),
        (told.output.say, "d"),
    ):
        say(text)
    told.output.end(cut_off=False)
    assert told.texts() == [
        ("reasoning", "a"),
        ("message", "b"),
        ("reasoning", "c"),
        ("message", "d"),
    ]
    items = [kind for kind in told.kinds if kind.startswith("output_item")]
    assert items == ["output_item.added", "output_item.done"] * 4
    assert len({item["id"] for item in told.output.items}) == 4


def test_calls_by_turns() -> None:
    """Calls whose arguments come by turns are kept apart, in the order in which they began."""
    told = Told()
    told.output.call(1, call("", id="d"))
    told.output.call(0, call(""))
    for key, text in ((0, "a"), (1, "b"), (0, "c")):
        told.output.call(key, {"function": {"arguments": text}})
    told.output.end(cut_off=False)
    assert [(it["call_id"], it["arguments"]) for it in told.output.items] == [
        ("d", "b"),
        ("c", "ac"),
    ]
    deltas = [e["output_index"] for e in told.events if e["type"].endswith("arguments.delta")]
    assert deltas == [1, 0, 1]


def test_arguments_that_are_an_object() -> None:
    """Servers that parse arguments get them said as JSON; a call without an id gets one."""
    told = Told()
    told.output.call(0, {"function": {"name": "f", "arguments": {"q": "é"}}})
    told.output.end(cut_off=False)
    (item,) = told.output.items
    assert (item["arguments"], item["call_id"]) == ('{"q":"é"}', "call_0")


def test_nothing_is_an_empty_text() -> None:
    """An answer without a word has an item all the same, and one with a call has none."""
    told = Told()
    told.output.end(cut_off=False)
    assert told.texts() == [("message", "")]
    assert "output_text.delta" not in told.kinds
    told = Told()
    told.output.call(0, call())
    told.output.end(cut_off=False)
    assert told.texts() == [("function_call", "{}")]


def test_what_was_cut_off_is_the_last_item() -> None:
    """Items before it are whole."""
    told = Told()
    told.output.say("a")
    told.output.call(0, call())
    told.output.call(1, call("{"))
    told.output.end(cut_off=True)
    assert [item["status"] for item in told.output.items] == [
        "completed",
        "completed",
        "incomplete",
    ]


def test_a_text_with_log_probabilities_waits_for_all_of_them() -> None:
    """Tokens of calls and of the end are told with the text, since servers do not part them."""
    told = Told(logprobs=True)
    entry = {"token": "é", "logprob": -1.0, "bytes": None, "top_logprobs": [{"token": "x"}]}
    told.output.take_logprobs([entry])
    told.output.say("b")
    told.output.take_logprobs([entry])
    told.output.call(0, call())
    told.output.take_logprobs([entry])
    told.output.end(cut_off=False)
    expected = {
        "token": "é",
        "bytes": list("é".encode()),
        "logprob": -1.0,
        "top_logprobs": [{"token": "x", "bytes": [120], "logprob": None}],
    }
    (part,) = told.output.items[0]["content"]
    assert part["logprobs"] == [expected] * 3
    delta = next(event for event in told.events if event["type"] == "output_text.delta")
    assert delta["logprobs"] == [expected]
    silent = Told()
    silent.output.take_logprobs([entry])
    silent.output.say("b")
    silent.output.end(cut_off=False)
    assert silent.output.items[0]["content"][0]["logprobs"] == []


def test_texts_and_refusals_are_parts_of_one_message() -> None:
    """A refusal in the middle is a part between two texts."""
    told = Told()
    for say, text in ((told.output.say, "a"), (told.output.refuse, "b"), (told.output.say, "c")):
        say(text)
    told.output.end(cut_off=False)
    (message,) = told.output.items
    assert [part["type"] for part in message["content"]] == [
        "output_text",
        "refusal",
        "output_text",
    ]
    indices = [e["content_index"] for e in told.events if e["type"] == "content_part.done"]
    assert indices == [0, 1, 2]


def test_thoughts_as_a_summary() -> None:
    """Whoever asks for a summary is told the thoughts where summaries stand, and sealed."""
    told = Told(in_summary=True, sealed=True)
    told.output.think("a")
    told.output.think("b")
    told.output.say("c")
    told.output.end(cut_off=False)
    thought = told.output.items[0]
    assert thought["summary"] == [{"type": "summary_text", "text": "ab"}]
    assert thought["encrypted_content"].startswith("agl.")
    assert "content" not in thought
    assert told.kinds[:7] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]
