"""What chat completions and completions have in common: asking for ids, and reading choices."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, cast

from agentlightning.errors import UpstreamError
from agentlightning.gateway.dialects.base import CapturedAnswer, Dialect, Exchange
from agentlightning.gateway.dialects.chat_parts import read_answer
from agentlightning.gateway.dialects.choice import ChoiceCapture, read_ints
from agentlightning.gateway.dialects.whole_stream import events_of_whole
from agentlightning.gateway.jsontext import Cut, cut_members, write_json
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.stream import ServerEvent
from agentlightning.gateway.upstream import UpstreamCapabilities

__all__ = ["TOKENS", "OpenAIDialect", "OpenAIExchange", "error_body"]

_DONE = b"[DONE]"
_SYNONYMS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_IDS_IN_ANSWER = frozenset({"prompt_token_ids", "weight_version"})
_IDS_IN_CHOICE = frozenset({"prompt_token_ids", "token_ids", "token_versions"})
_LOGPROBS = frozenset({"logprobs"})
TOKENS = Cut(drop=_IDS_IN_ANSWER, items={"choices": Cut(drop=_IDS_IN_CHOICE, blank=_LOGPROBS)})
"""What is taken out of the answer to a client that asked neither for ids nor log-probabilities."""


def error_body(message: str, *, error_type: str, code: str) -> bytes:
    """Return the body of an error."""
    error = {"message": message, "type": error_type, "param": None, "code": code}
    return write_json({"error": error})


class OpenAIDialect(Dialect):
    """A dialect whose errors are OpenAI's."""

    def error_body(self, message: str, *, error_type: str, code: str) -> bytes:
        return error_body(message, error_type=error_type, code=code)

    def error_event(self, message: str, *, error_type: str, code: str) -> bytes:
        return b"data: " + error_body(message, error_type=error_type, code=code) + b"\n\n"


class OpenAIExchange(Exchange):
    """One call that is answered with a list of choices.

    Args:
        request: The parsed body.
        body: The body as the client sent it.
        route: Where the call goes.
        logprobs: How to ask for log-probabilities; None where the client does.
        choices: How many the answer will have.
        capture: Ask for ids and log-probabilities where the model is learnt from.
    """

    path: ClassVar[str]
    chunk_kind: ClassVar[str]
    """`object` of a stream's chunks."""

    def __init__(
        self,
        request: dict[str, Any],
        body: bytes,
        route: ModelRoute,
        *,
        logprobs: bool | int | None,
        choices: int,
        capture: bool = True,
    ) -> None:
        self.upstream_path = self.path
        self.stream = bool(request.get("stream"))
        changes = _changes(request, route)
        if capture and route.trained:
            changes.update(_captures(request, route.upstream.capabilities, logprobs))
        options = request.get("stream_options")
        self._with_usage = isinstance(options, dict) and options.get("include_usage") is True
        self.upstream_body = _with_changes(request, changes) if changes else body
        self._cut = _unasked(request, changes)
        self._choices_left = choices
        self._captured = CapturedAnswer()
        self._choices: dict[int, ChoiceCapture] = {}
        self._version: int | None = None
        self._over = False

    @abstractmethod
    def _take_whole_choice(self, capture: ChoiceCapture, choice: dict[str, Any]) -> None:
        """Capture what a choice of a whole answer says."""

    @abstractmethod
    def _take_chunk(self, capture: ChoiceCapture, choice: dict[str, Any]) -> None:
        """Capture what one chunk of a choice says."""

    def take_whole(self, body: bytes) -> bytes:
        answer = self.read_whole(body)
        return body if self._cut is None else cut_members(body, self._cut, answer)

    def take_event(self, event: ServerEvent) -> bytes:
        chunk = self.read_event(event)
        if chunk is None or event.data is None or self._cut is None:
            return event.raw
        shortened = cut_members(event.data, self._cut, chunk)
        return event.raw if shortened is event.data else event.with_data(shortened)

    def read_whole(self, body: bytes) -> dict[str, Any]:
        """Capture a complete answer and return it; see `take_whole`."""
        answer = self._read(body)
        if self.failure is None and not isinstance(answer.get("choices"), list):
            raise UpstreamError("The model server's answer has no list of choices.")
        for choice in _dicts(answer.get("choices")):
            self._take_whole_choice(self._choice(choice), choice)
        return answer

    def read_event(self, event: ServerEvent) -> dict[str, Any] | None:
        """Capture one event and return its chunk, None where it has none; see `take_event`."""
        data = event.data.strip() if event.data else b""
        if data == _DONE:
            self._over = True
            return None
        if not data:
            return None
        chunk = self._read(data)
        for choice in _dicts(chunk.get("choices")):
            self._take_chunk(self._choice(choice), choice)
        return chunk

    def split_whole(self, body: bytes) -> list[ServerEvent] | None:
        if not self.stream:
            return None
        if not isinstance(self._read(body).get("choices"), list) or self.failure is not None:
            return None
        return events_of_whole(body, kind=self.chunk_kind, with_usage=self._with_usage)

    @property
    def is_complete(self) -> bool:
        return self._over or self._choices_left <= 0 or self.failure is not None

    @property
    def is_over(self) -> bool:
        return self._over

    def answer(self) -> CapturedAnswer:
        captured = self._captured
        captured.choices = [self._choices[i].to_choice() for i in sorted(self._choices)]
        for choice in captured.choices:
            # Some servers say the prompt of the call in each of its choices.
            if not captured.prompt_token_ids and choice.prompt_token_ids:
                captured.prompt_token_ids = choice.prompt_token_ids
            if choice.prompt_token_ids == captured.prompt_token_ids:
                choice.prompt_token_ids = None
        return captured

    def _read(self, data: bytes) -> dict[str, Any]:
        """Parse an answer or a chunk of one, and take what stands at its top level."""
        members = read_answer(data)
        error = members.get("error")
        if error is not None:
            self.failure = _error_message(error)
        captured = self._captured
        if captured.response_id is None and members.get("id"):
            captured.response_id = str(members["id"])
        prompt = members.get("prompt_token_ids")
        if prompt is not None:
            captured.prompt_token_ids = read_ints(prompt, "prompt_token_ids")
        usage = members.get("usage")
        if isinstance(usage, dict):
            captured.usage = usage
        version = members.get("weight_version")
        if isinstance(version, int):
            self._version = version
        return members

    def _choice(self, choice: dict[str, Any]) -> ChoiceCapture:
        said = choice.get("index")
        index = said if isinstance(said, int) else 0
        capture = self._choices.get(index)
        if capture is None:
            capture = self._choices[index] = ChoiceCapture(index)
        had_ended = capture.finish_reason is not None
        capture.take_tokens(choice, self._version)
        if capture.finish_reason is not None and not had_ended:
            self._choices_left -= 1
        return capture


def _changes(request: dict[str, Any], route: ModelRoute) -> dict[str, Any]:
    """Return the members that the upstream must see otherwise than the client sent them."""
    changes: dict[str, Any] = {}
    if request.get("model") != route.model:
        changes["model"] = route.model
    if not route.trained:
        return changes
    defaults = route.sampling_defaults.items()
    changes.update((name, value) for name, value in defaults if not _is_said(request, name))
    changes.update(route.sampling_overrides)
    return changes


def _captures(
    request: dict[str, Any], capabilities: UpstreamCapabilities, logprobs: bool | int | None
) -> dict[str, Any]:
    """Return the members that make the upstream tell what a call is learnt from."""
    changes: dict[str, Any] = {}
    if capabilities.token_ids and request.get("return_token_ids") is not True:
        changes["return_token_ids"] = True
    if request.get("stream") and capabilities.token_ids and not capabilities.token_ids_in_streams:
        changes.update(stream=False, stream_options=None)
    if capabilities.logprobs and logprobs is not None:
        changes["logprobs"] = logprobs
    return changes


def _is_said(request: dict[str, Any], name: str) -> bool:
    names = (name, _SYNONYMS.get(name, name))
    return any(request.get(synonym) is not None for synonym in names)


def _with_changes(request: dict[str, Any], changes: dict[str, Any]) -> bytes:
    body = {**request, **changes}
    removed = {key for key, value in changes.items() if value is None}
    return write_json({key: value for key, value in body.items() if key not in removed})


def _unasked(request: dict[str, Any], changes: dict[str, Any]) -> Cut | None:
    """Return what to take out of the answer: all that only the gateway asked for."""
    ids = "return_token_ids" in changes
    logprobs = "logprobs" in changes and not request.get("logprobs")
    if not ids and not logprobs:
        return None
    in_choice = Cut(
        drop=_IDS_IN_CHOICE if ids else frozenset(),
        blank=_LOGPROBS if logprobs else frozenset(),
    )
    return Cut(drop=_IDS_IN_ANSWER if ids else frozenset(), items={"choices": in_choice})


def _dicts(value: Any) -> list[dict[str, Any]]:
    items: list[Any] = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]


def _error_message(error: Any) -> str:
    message = cast("dict[str, Any]", error).get("message") if isinstance(error, dict) else error
    return str(message or "The model server reported an error without a message.")
