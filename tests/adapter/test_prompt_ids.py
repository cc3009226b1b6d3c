"""Prompts as arrays."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agentlightning.adapter.prompt_ids import PromptReader, image_urls
from agentlightning.types.call import CallRecord

PAD = 7


def call(ids, *parts):
    request = {"messages": [{"role": "user", "content": list(parts)}]}
    names = {"call_id": str(ids), "rollout_id": "r", "attempt_id": "a"}
    times = {"start_time": 0.0, "end_time": 1.0}
    return CallRecord(prompt_token_ids=ids, request=request, **names, **times)


def image(url):
    return {"type": "image_url", "image_url": {"url": url}}


@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 2), max_size=40)), max_size=8))
def test_arrays_are_the_lists_whatever_was_read_before(steps):
    """Reuse of what is known changes nothing about the result."""
    reader, history = PromptReader(), []
    for goes_on, more in steps:
        ids = [*(history if goes_on else []), *more]
        array = reader.read(call(ids))
        assert (array.tolist(), array.dtype) == (ids, np.int32)
        reader.remember(call(ids), np.array([1, 2], dtype=np.int32))
        history = [*ids, 1, 2]


def test_placeholders_are_told_apart_and_turned_back():
    """Two images differ although their tokens do not; the same image is the same."""
    reader = PromptReader(frozenset({PAD}))
    cat = reader.read(call([1, PAD, PAD, 2], image("cat")))
    dog = reader.read(call([1, PAD, PAD, 2], image("dog")))
    assert cat.tolist() != dog.tolist()
    assert cat.tolist() == reader.read(call([1, PAD, PAD, 2], image("cat"))).tolist()
    assert reader.restore(cat).tolist() == reader.restore(dog).tolist() == [1, PAD, PAD, 2]
    (found,) = reader.images(dog)
    assert (found.start, found.stop, found.url) == (1, 3, "dog")


def test_images_side_by_side_are_two_when_each_is_one_token():
    """As many placeholders as images are one image each."""
    reader = PromptReader(frozenset({PAD}))
    keys = reader.read(call([PAD, PAD], image("cat"), image("dog")))
    assert [(i.start, i.stop, i.url) for i in reader.images(keys)] == [(0, 1, "cat"), (1, 2, "dog")]


def test_images_are_found_in_the_chat_form_of_a_request():
    """Every spelling of an image counts, in order; text does not."""
    plain = call([1], {"type": "text", "text": "x"}, image("a"), {"type": "image", "image": "b"})
    assert list(image_urls(plain)) == ["a", "b"]
    chat = {"messages": [{"role": "user", "content": [image("c"), {"type": "image_url"}]}, "?"]}
    assert list(image_urls(plain.model_copy(update={"chat_request": chat}))) == ["c", None]
