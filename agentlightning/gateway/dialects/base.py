"""What a wire format has to say about itself so that its calls can be captured.

An exchange is pure: it turns bytes into bytes and remembers what it saw. It does no I/O, knows
nothing of stores, and serves one call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.stream import ServerEvent
from agentlightning.types.call import CallChoice

__all__ = ["CapturedAnswer", "Dialect", "Exchange", "ModelCall"]


@dataclass(slots=True)
class CapturedAnswer:
    """What a call's answer held, so far or whole."""

    response_id: str | None = None
    prompt_token_ids: list[int] = field(default_factory=list[int])
    choices: list[CallChoice] = field(default_factory=list[CallChoice])
    usage: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """What a client asks, and of whom."""

    request: dict[str, Any]
    """The parsed body."""
    body: bytes
    """The body as the client sent it."""
    route: ModelRoute
    """Where the call goes."""
    conversation: str | None = None
    """Names the attempt that calls, for dialects that remember what they said to it."""


class Exchange(ABC):
    """One call: what the upstream is asked, and what came back."""

    upstream_path: str
    upstream_body: bytes
    stream: bool
    """The client asked for a stream."""
    failure: str | None = None
    """What the upstream reported within an answer whose status was fine."""
    chat_request: dict[str, Any] | None = None
    """The request in the shape of chat completions, where the client spoke another format."""

    @abstractmethod
    def take_whole(self, body: bytes) -> bytes:
        """Capture a complete answer and return what the client gets.

        Raises:
            UpstreamError: It is not an answer in this format.
        """

    @abstractmethod
    def take_event(self, event: ServerEvent) -> bytes:
        """Capture one event of a stream and return what the client gets.

        Raises:
            UpstreamError: It is not an event in this format.
        """

    def take_error(self, status: int, body: bytes) -> bytes:
        """Return what the client gets for an answer with an error status."""
        return body

    def split_whole(self, body: bytes) -> list[ServerEvent] | None:
        """Return a whole answer as the events of the stream that the client asked for.

        None where the client asked for none, or the format has no such events.
        """
        return None

    def finish(self) -> bytes:
        """Return what the client still needs when the upstream's stream has ended."""
        return b""

    def break_off(self, message: str, *, error_type: str, code: str) -> bytes | None:
        """Return the events that tell a client that its stream failed.

        None where that does not depend on what the client has seen: then `Dialect.error_event` is
        what it gets.
        """
        return None

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """Return whether a client that saw all events so far may take the answer as whole."""

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Return whether the format allows no further event."""

    @abstractmethod
    def answer(self) -> CapturedAnswer:
        """Return what was captured so far."""


class Dialect(ABC):
    """A wire format."""

    name: ClassVar[str]
    """As in `CallRecord.dialect`."""

    paths: ClassVar[frozenset[str]]
    """Request paths that speak it, with the `/v1`."""

    is_translated: ClassVar[bool] = False
    """Model servers may not speak it, so that even calls which nobody records need an exchange."""

    def lacks(self, call: ModelCall) -> bool:
        """Return whether a call goes on from one of its attempt that is not known here.

        Another process may have served that one: the store has its record, see `StoredResponses`.
        """
        return False

    @abstractmethod
    def begin(self, call: ModelCall) -> Exchange:
        """Return the exchange for one call.

        Raises:
            RequestError: The request cannot be served.
        """

    @abstractmethod
    def error_body(self, message: str, *, error_type: str, code: str) -> bytes:
        """Return a failed call's answer, as clients of this format read it."""

    @abstractmethod
    def error_event(self, message: str, *, error_type: str, code: str) -> bytes:
        """Return the event that tells a client that its stream failed."""
