"""Nested configuration as dotted keys."""

from collections.abc import Iterator, Mapping

from agentlightning.algorithm.verl.flat import FlatConfig


class Container(Mapping[str, object]):
    """Behaves like OmegaConf's: a mapping that is no dictionary."""

    def __init__(self, content: dict[str, object]) -> None:
        self._content = content

    def __getitem__(self, key: str) -> object:
        return self._content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


def test_each_key_is_taken_once():
    """What was taken is known; what is left is not."""
    flat = FlatConfig(Container({"a": Container({"b": 1, "c": None}), "+d": [1, 2]}))
    assert flat.take("a.b", 0) == 1
    assert flat.take("a.b", 0) == 0
    assert flat.take("a.c", "default") == "default"
    assert flat.rest(()) == ["d"]


def test_known_beginnings_are_told_apart():
    """Keys below a known prefix are not unknown."""
    flat = FlatConfig({"a": {"x": 1, "y": 2}, "b": 3})
    assert flat.present(("a.",)) == ["a.x", "a.y"]
    assert flat.rest(("a.",)) == ["b"]
