"""What is remembered of responses, for how long, and for whom."""

from agentlightning.gateway.dialects.responses_memory import ResponseMemory


def item(name: str, text: str = "") -> dict[str, str]:
    return {"id": name, "type": "message", "content": text}


def remember(
    memory: ResponseMemory, name: str, previous: str | None = None, conversation: str | None = "a"
) -> None:
    asked, output = [item(f"in_{name}")], [item(f"msg_{name}")]
    memory.remember(name, conversation, previous=previous, asked=asked, output=output)


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
    memory.remember("1", "a", previous=None, asked=[item("x", "y" * 600)], output=[])
    memory.remember("2", "a", previous=None, asked=[item("x", "y" * 600)], output=[])
    assert names(memory, "1") is None
    assert names(memory, "2") == ["x"]
    memory.remember("3", "a", previous=None, asked=[item("x", "y" * 2000)], output=[])
    assert names(memory, "3") is None
    remember(memory, "4")
    assert names(memory, "4")
