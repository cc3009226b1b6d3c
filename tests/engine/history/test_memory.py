"""What is remembered, for how long, and how much of it."""

import threading

import pytest

from agentlightning.engine.history.memory import Answer, HistoryLimits, HistoryMemory, Segment
from agentlightning.engine.history.messages import AnswerKey, answer_key

KEY = answer_key({"content": "A"})


def remember(
    memory: HistoryMemory, conversation: str, prompt: Segment, *ids: int, key: AnswerKey = KEY
) -> Segment:
    """Remember an answer; links are made of the prompt's length."""
    segment = Segment(ids, prompt)
    memory.add(
        conversation,
        prompt_link=b"p%d" % prompt.length,
        answer_link=b"a%d" % prompt.length,
        loose_link=b"l%d" % prompt.length,
        answer=Answer(key=key, segment=segment, order=(0, 0)),
    )
    return segment


def test_what_was_served_is_found_again() -> None:
    """Prompts by their link, answers by link and key, ids from the start."""
    memory = HistoryMemory(HistoryLimits())
    prompt = Segment([1, 2])
    remember(memory, "c", prompt, 3, 4)
    found = memory.answer("c", b"a2", KEY)
    assert found is not None
    assert found.segment.to_list() == [1, 2, 3, 4]
    assert found.last_id == 4
    assert memory.prompt("c", b"p2") is prompt
    assert memory.was_answered("c", b"l2")
    assert memory.was_answered("c", b"a2")
    assert memory.answer("c", b"a2", answer_key({"content": "<think>so</think>A"})) is None
    assert memory.answer("d", b"a2", KEY) is None
    assert not memory.knows("d")


def test_prompts_are_kept_by_what_answers_begin_with() -> None:
    """The same messages asked with and without a beginning have each their own prompt."""
    memory = HistoryMemory(HistoryLimits())
    segment = Segment([3], Segment([1, 2]))
    answer = Answer(key=KEY, segment=segment, order=(0, 0))
    links = {"prompt_link": b"p", "answer_link": b"a", "loose_link": b"l"}
    assert not memory.was_asked("c", b"p")
    memory.add("c", **links, answer=answer, opening="<call>")
    assert memory.was_asked("c", b"p")
    assert memory.prompt("c", b"p") is None
    assert memory.prompt("c", b"p", opening="<call>") is segment.parent
    assert memory.answer("c", b"a", KEY) is answer


def test_shared_tokens_count_once() -> None:
    """Turns and choices share the tokens before them; forgetting frees all."""
    memory = HistoryMemory(HistoryLimits())
    turn = remember(memory, "c", Segment([1, 2]), 3, 4)
    prompt = Segment([5], turn)
    remember(memory, "c", prompt, 6)
    remember(memory, "c", prompt, 7)
    assert memory.size() == (1, 7, 0)
    memory.forget("c")
    assert memory.size() == (0, 0, 0)


def test_the_longest_unused_goes_first() -> None:
    """Past a bound conversations are dropped in the order of their last use."""
    memory = HistoryMemory(HistoryLimits(conversations=2, tokens=8))
    for name in ("a", "b"):
        remember(memory, name, Segment([1, 2]), 3)
    assert memory.knows("a")
    remember(memory, "c", Segment([1, 2]), 3)
    assert (memory.knows("b"), memory.knows("c"), memory.knows("a")) == (False, True, True)
    remember(memory, "a", Segment([1, 2, 3]), 4, 5)
    assert memory.size() == (1, 8, 2)
    assert memory.knows("a")
    remember(memory, "d", Segment([1] * 9), 1)
    assert memory.size() == (0, 0, 4)


def test_an_unused_conversation_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the idle time nothing is left, without anybody saying that it ended."""
    present = [0.0]
    monkeypatch.setattr("agentlightning.engine.history.memory.monotonic", lambda: present[0])
    memory = HistoryMemory(HistoryLimits(idle_seconds=10))
    remember(memory, "a", Segment([1]), 2)
    remember(memory, "b", Segment([1]), 2)
    present[0] = 9.0
    assert memory.knows("b")
    present[0] = 12.0
    assert not memory.knows("a")
    assert memory.knows("b")
    assert memory.size() == (1, 2, 0)


def test_threads_may_use_it_together() -> None:
    """Counts stay right when many threads remember, look up and forget at once."""
    memory = HistoryMemory(HistoryLimits(conversations=5))
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for at in range(200):
                name = f"c{(number + at) % 8}"
                remember(memory, name, Segment([1] * (at % 7 + 1)), 2)
                memory.answer(name, b"a3", KEY)
                memory.forget(f"c{at % 8}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert memory.size()[0] <= 5
    for number in range(8):
        memory.forget(f"c{number}")
    assert memory.size()[:2] == (0, 0)
