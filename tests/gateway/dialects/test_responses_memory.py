"""What is remembered of responses, for how long, and for whom."""

from agentlightning.gateway.dialects.responses_memory import ResponseMemory


def item(name: str, text: str = "") -> dict[str, str]:
    return {"id": name, "type": "message", "content": text}


def remember(
    memory: ResponseMemory, name: str, previous: str | None = None, conversation: str | None = "a"
) -> None:
    asked, output = [item(f"in_{name}")], [item(f"msg_{name}")]
    memory.remember(name, conversation, previous=previous, asked=asked, response={"output": output})


def names(memory: ResponseMemory, name: str, conversation: str | None = "a") -> list[str] | None:
    items = memory.history(name, conversation)
    return None if items is None else [it["id"] for it in items]


def test_a_chain_is_told_from_its_beginning() -> None:
    """Each response adds its input and its output; others may branch off any of them."""
    memory = ResponseMemory()
    remember(memory, "1")
    remember(memory, "2", previous="1")
    remember(memory, "3", previous="1")
    assert names(memory, "2") == ["in_1", "msg_1", "in_2", "msg_2"]
    assert names(memory, "3") == ["in_1", "msg_1", "in_3", "msg_3"]
    assert names(memory, "4") is None


def test_other_attempts_know_nothing() -> None:
    """A response belongs to the attempt that got it."""
    memory = ResponseMemory()
    remember(memory, "1")
    remember(memory, "2", conversation=None)
    assert names(memory, "1", "b") is None
    assert names(memory, "1", None) is None
    assert names(memory, "2") is None
    assert memory.item("msg_1", "a") == item("msg_1")
    assert memory.item("msg_1", "b") is None
    assert memory.item("in_1", "a") is None


def test_the_longest_unused_go_first() -> None:
    """Past the bound something goes, but nothing that a kept response goes on from."""
    memory = ResponseMemory(most_responses=3)
    remember(memory, "1")
    remember(memory, "2")
    remember(memory, "3", previous="1")
    assert names(memory, "3")
    remember(memory, "4")
    assert names(memory, "2") is None
    assert memory.item("msg_2", "a") is None
    assert names(memory, "3") == ["in_1", "msg_1", "in_3", "msg_3"]
    remember(memory, "5")
    remember(memory, "6")
    # The end of a chain goes before its beginning.
    assert names(memory, "3") is None
    assert names(memory, "1")


def test_bytes_are_bounded() -> None:
    """Large items push out older ones, and themselves if they are too large."""
    memory = ResponseMemory(most_bytes=1000)
    memory.remember("1", "a", previous=None, asked=[item("x", "y" * 600)], response={"output": []})
    memory.remember("2", "a", previous=None, asked=[item("x", "y" * 600)], response={"output": []})
    assert names(memory, "1") is None
    assert names(memory, "2") == ["x"]
    memory.remember("3", "a", previous=None, asked=[item("x", "y" * 2000)], response={"output": []})
    assert names(memory, "3") is None
    remember(memory, "4")
    assert names(memory, "4")


def test_what_is_deleted_is_given_to_nobody() -> None:
    """A deleted response cannot be had or gone on from; what went on from it before is whole."""
    memory = ResponseMemory()
    remember(memory, "1")
    remember(memory, "2", previous="1")
    memory.delete("1", "b")
    assert memory.response("1", "a") == {"output": [item("msg_1")]}
    memory.delete("1", "a")
    assert memory.response("1", "a") is None
    assert names(memory, "1") is None
    assert memory.item("msg_1", "a") is None
    assert memory.has_seen("1")
    assert names(memory, "2") == ["in_1", "msg_1", "in_2", "msg_2"]
    memory.delete("unknown", "a")


def test_deleted_responses_make_room_like_others() -> None:
    """Forgetting one that was deleted takes its bytes, and nothing twice."""
    memory = ResponseMemory(most_responses=1)
    remember(memory, "1")
    memory.delete("1", "a")
    remember(memory, "2")
    assert not memory.has_seen("1")
    assert names(memory, "2")
