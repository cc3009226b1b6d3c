"""Hashes of whole stores."""

import json
import random

from hypothesis import given
from hypothesis import strategies as st

from agentlightning.store.fingerprint import Fingerprint, Sighting

spans = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=12)


def texts(pairs: list[tuple[str, int]]) -> list[str]:
    return [json.dumps({"rollout_id": owner, "n": n}) for owner, n in pairs]


def of(kind: str, pairs: list[tuple[str, int]], cut: int = 0) -> Fingerprint:
    made = Fingerprint()
    made.add(kind, texts(pairs)[:cut])
    made.add(kind, texts(pairs)[cut:])
    return made


@given(spans, st.integers(0, 12))
def test_pages_do_not_matter(pairs: list[tuple[str, int]], cut: int):
    """Wherever pages end, the number is the same."""
    assert of("spans", pairs).hex() == of("spans", pairs, cut).hex()


@given(spans)
def test_only_the_order_within_a_rollout_matters(pairs: list[tuple[str, int]]):
    """Listing spans rollout by rollout changes nothing."""
    grouped = sorted(pairs, key=lambda pair: pair[0])
    assert of("spans", pairs).difference(of("spans", grouped)) is None


@given(spans, spans)
def test_what_differs_is_seen(one: list[tuple[str, int]], other: list[tuple[str, int]]):
    """Different spans of a rollout, or another order of them, give another number."""
    by_owner = [[n for o, n in one if o == owner] for owner in "abc"]
    others = [[n for o, n in other if o == owner] for owner in "abc"]
    assert (of("spans", one).difference(of("spans", other)) is None) == (by_owner == others)


@given(spans.filter(lambda pairs: len(set(pairs)) > 1))
def test_rollouts_have_one_order(pairs: list[tuple[str, int]]):
    """The order of rollouts is part of what they are."""
    swapped = pairs[::-1]
    same = of("rollouts", pairs).difference(of("rollouts", swapped)) is None
    assert same == (pairs == swapped)


@given(st.text(max_size=5), st.integers(0, 3))
def test_the_group_is_the_id_however_it_is_written(owner: str, n: int):
    """Quotes, backslashes and the order of fields do not matter for what belongs together."""
    first, second = Fingerprint(), Fingerprint()
    one = json.dumps({"rollout_id": owner, "n": n}, separators=(",", ":"))
    other = json.dumps({"n": n, "rollout_id": owner}, separators=(",", ":"))
    first.add("spans", [one, other])
    second.add("spans", [other, one])
    assert first.hex() != second.hex()


@given(spans, spans)
def test_a_sighting_allows_more(one: list[tuple[str, int]], other: list[tuple[str, int]]):
    """A set of records is found within a larger one, in any order."""
    expected, found = Sighting(), Sighting()
    both = texts(one + other)
    random.Random(0).shuffle(both)
    expected.add("spans", texts(one))
    found.add("spans", both)
    assert expected.difference(found) is None
    missing = set(texts(other)) - set(texts(one))
    assert (found.difference(expected) is None) == (not missing)
