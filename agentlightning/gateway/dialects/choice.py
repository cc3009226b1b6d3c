"""One choice of an answer as it builds up: its message, its tokens, who sampled them."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, cast

from agentlightning.errors import UpstreamError
from agentlightning.types.call import CallChoice, VersionSpan

__all__ = ["ChoiceCapture", "merge_delta", "read_ints"]

_INT = frozenset({int})
_LOGPROB = itemgetter("logprob")
_SAID_ONCE = frozenset({"id", "type", "name", "role", "object"})


class ChoiceCapture:
    """Collects one choice from a whole answer or from the deltas of a stream."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.finish_reason: str | None = None
        self.prompt_token_ids: list[int] | None = None
        """Of this choice, where the server says it there."""
        self.echoes_prompt = False
        """Its log-probabilities begin with those of the prompt."""
        self._message: dict[str, Any] | None = None
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[float | None] = []
        self._versions: list[int | None] = []

    def take_tokens(self, choice: dict[str, Any], version: int | None) -> None:
        """Add the tokens of a choice, or of one chunk of it.

        Args:
            choice: As the upstream sent it.
            version: Of the weights, where the choice does not say it token by token.
        """
        said = choice.get
        prompt, logprobs, reason = said("prompt_token_ids"), said("logprobs"), said("finish_reason")
        if prompt is not None:
            self.prompt_token_ids = read_ints(prompt, "prompt_token_ids")
        ids = read_ints(said("token_ids"), "token_ids") or _ids_of_logprobs(logprobs)
        versions = read_ints(said("token_versions"), "token_versions")
        self._token_ids += ids
        self._versions += versions or [version] * len(ids)
        self._logprobs += _read_logprobs(logprobs)
        if reason is not None:
            self.finish_reason = str(reason)

    def take_message(self, message: dict[str, Any] | None) -> None:
        """Take the message of a whole answer."""
        self._message = message

    def take_token(self, token_id: int, logprob: float, version: int | None) -> None:
        """Add one token; see `take_tokens`."""
        self._token_ids.append(token_id)
        self._logprobs.append(logprob)
        self._versions.append(version)

    def take_delta(self, delta: dict[str, Any]) -> None:
        """Add one chunk's part of the message."""
        merge_delta(self._joined_message(), delta)

    def take_text(self, text: str) -> None:
        """Add a delta that is nothing but content."""
        # Perf: joined once, so that a long answer does not cost its length for each token.
        self._texts.append(text)

    def _joined_message(self) -> dict[str, Any]:
        if self._message is None:
            self._message = {"role": "assistant", "content": None}
        texts, self._texts = self._texts, []
        if texts:
            merge_delta(self._message, {"content": "".join(texts)})
        return self._message

    def to_choice(self) -> CallChoice:
        """Return what was collected so far."""
        message = self._joined_message() if self._texts else self._message
        ids, logprobs = self._token_ids, self._logprobs
        if self.echoes_prompt:
            logprobs = logprobs[-len(ids) :] if ids else []
        # A probability that is no number makes all of them useless: none is better than some.
        known = set(map(type, logprobs)) <= {float, int}
        return CallChoice(
            index=self.index,
            message=_as_recorded(message),
            prompt_token_ids=self.prompt_token_ids,
            token_ids=ids,
            logprobs=cast("list[float]", logprobs) if known else [],
            versions=_runs(self._versions),
            finish_reason=self.finish_reason,
        )


def read_ints(value: Any, name: str) -> list[int]:
    """Return a list of ints from an upstream's answer; empty where there is none.

    Raises:
        UpstreamError: It is something else.
    """
    if value is None:
        return []
    items: list[Any] | None = value if isinstance(value, list) else None
    if items is None or not _INT.issuperset(map(type, items)):
        raise UpstreamError(f"The model server's {name} is not a list of integers.")
    return items


def _read_logprobs(logprobs: Any) -> list[float | None]:
    if not isinstance(logprobs, dict):
        return []
    members: dict[str, Any] = logprobs
    # Completions have lists side by side where chat completions have a list of entries.
    plain: Any = members.get("token_logprobs")
    if isinstance(plain, list):
        return plain
    entries: Any = members.get("content")
    if not isinstance(entries, list):
        return []
    try:
        return list(map(_LOGPROB, entries))
    except (TypeError, KeyError) as error:
        raise UpstreamError("The model server's logprobs have entries without one.") from error


def _ids_of_logprobs(logprobs: Any) -> list[int]:
    """Return the ids that llama.cpp's server says with its log-probabilities, if all have one."""
    entries = (
        cast("dict[str, Any]", logprobs).get("content") if isinstance(logprobs, dict) else None
    )
    if not isinstance(entries, list):
        return []
    named = [entry for entry in cast("list[Any]", entries) if isinstance(entry, dict)]
    ids = [cast("dict[str, Any]", entry).get("id") for entry in named]
    is_whole = len(ids) == len(cast("list[Any]", entries)) and set(map(type, ids)) <= {int}
    return cast("list[int]", ids) if is_whole else []


def merge_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add a chunk of a streamed message to what came before, in place.

    Texts are joined; objects are merged; list items that carry an `index` are merged by it.

    Example:
        >>> message = {"content": "Hel"}
        >>> merge_delta(message, {"content": "lo"})
        >>> message
        {'content': 'Hello'}
    """
    for key, new in delta.items():
        old = message.get(key)
        if old is None:
            message[key] = _first(new)
        elif isinstance(old, str) and isinstance(new, str):
            if key not in _SAID_ONCE:
                message[key] = old + new
            elif not old:
                message[key] = new
        elif isinstance(old, dict) and isinstance(new, dict):
            merge_delta(cast("dict[str, Any]", old), cast("dict[str, Any]", new))
        elif isinstance(old, list) and isinstance(new, list):
            _merge_items(cast("list[Any]", old), cast("list[Any]", new))
        elif new is not None:
            message[key] = new


def _first(value: Any) -> Any:
    if isinstance(value, list):
        items: list[Any] = []
        _merge_items(items, cast("list[Any]", value))
        return items
    return value


def _merge_items(items: list[Any], new_items: list[Any]) -> None:
    for new in new_items:
        index = _index(new)
        old = next((i for i in items if index is not None and _index(i) == index), None)
        if old is None:
            items.append(new)
        else:
            merge_delta(old, new)


def _index(item: Any) -> Any:
    return cast("dict[str, Any]", item).get("index") if isinstance(item, dict) else None


def _as_recorded(message: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a message as readers expect it, whichever server sent it, streamed or whole."""
    return _with_thoughts(_without_indices(message)) if message else message


def _with_thoughts(message: dict[str, Any]) -> dict[str, Any]:
    """Name what was thought `reasoning_content`; newer servers say `reasoning`, or both."""
    thought = message.get("reasoning")
    if "reasoning" not in message or not isinstance(thought, str | None):
        return message
    kept = {key: value for key, value in message.items() if key != "reasoning"}
    if thought and not kept.get("reasoning_content"):
        kept["reasoning_content"] = thought
    return kept


def _without_indices(message: dict[str, Any]) -> dict[str, Any]:
    """Drop what only orders the chunks, so that streamed and whole messages are the same."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    ordered = sorted(cast("list[Any]", calls), key=lambda call: _index(call) or 0)
    plain = [
        {key: part for key, part in call.items() if key != "index"}
        for call in ordered
        if isinstance(call, dict)
    ]
    return {**message, "tool_calls": plain}


def _runs(versions: list[int | None]) -> list[VersionSpan]:
    """Return the versions of the tokens as runs; tokens before the first known one share it."""
    known = next((version for version in versions if version is not None), None)
    if known is None:
        return []
    runs: list[VersionSpan] = []
    for at, said in enumerate(versions):
        version = said if said is not None else runs[-1].version if runs else known
        if runs and runs[-1].version == version:
            runs[-1].length += 1
        else:
            runs.append(VersionSpan(start=at, length=1, version=version))
    return runs
