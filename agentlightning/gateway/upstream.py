"""What answers a model call: the protocol between the gateway and a model server.

An upstream speaks OpenAI's HTTP interface, over a socket (`HttpUpstream`) or in this process (the
embedded engine). This module defines the seam and does no I/O.

Token ids travel by vLLM's convention. A request body with `"return_token_ids": true` is answered
with top-level `prompt_token_ids` (in a stream: in the first chunk) and `choices[].token_ids`, the
sampled ids, an end-of-sequence id included (in a stream: those of this chunk). With
`"logprobs": true`, `choices[].logprobs.content[]` has one entry per sampled id. Completions are
answered alike, but for each choice's own `prompt_token_ids`, since a call may have several prompts,
and their `logprobs`: a number asks for them, `token_logprobs` holds them. An upstream whose
weights change says which version made the answer, likewise under `return_token_ids`: top-level
`weight_version` (an int, the version when the call began; in a stream: in any chunk) and, if it
changed on the way, `choices[].token_versions`, one int per entry of `token_ids`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = [
    "RemembersConversations",
    "Upstream",
    "UpstreamCapabilities",
    "UpstreamRequest",
    "UpstreamResponse",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamCapabilities:
    """What an upstream can say about the tokens of its answers."""

    token_ids: bool = False
    """It understands `return_token_ids`."""
    token_ids_in_streams: bool = True
    """Also in streams. Where not, a stream of a trained model is asked for as a whole answer, and
    told to the client in one piece."""
    logprobs: bool = False
    """It understands `logprobs` for chat completions."""
    versions: bool = False
    """It says which version of the weights sampled each token."""
    dialects: frozenset[str] = frozenset({"openai.chat", "openai.completions"})
    """Wire formats that it answers itself (names as in `CallRecord.dialect`). A client that speaks
    another one is served by translation to chat completions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRequest:
    """One HTTP request, as the upstream is to see it."""

    method: str
    path: str
    """Absolute, with the version: `/v1/chat/completions`."""
    query: str = ""
    """Without the question mark."""
    headers: dict[str, str]
    """Names in lower case; hop-by-hop headers, `host` and `content-length` are left out."""
    body: bytes = b""
    conversation: str | None = None
    """Names the attempt that calls, for upstreams that remember what they said to it; it never
    travels over the network."""
    role: str | None = None
    """Which agent calls, or the model name that it asked for if nobody says, for upstreams that have
    other weights for other agents; it never travels over the network."""


@dataclass(slots=True)
class UpstreamResponse:
    """The answer of an upstream; whoever received it must call `aclose`."""

    status: int
    headers: dict[str, str]
    """Names in lower case; hop-by-hop headers and `content-length` are left out."""
    body: AsyncIterator[bytes]
    """Pieces as they become known; raises `UpstreamError` when the answer breaks off."""
    on_close: Callable[[], Awaitable[None]] | None = None
    """Releases what the answer holds; called by `aclose`, after the body was closed."""

    async def read(self) -> bytes:
        """Return the rest of the body in one piece."""
        return b"".join([piece async for piece in self.body])

    async def aclose(self) -> None:
        """Stop the answer where it is, which cancels the generation behind it; idempotent."""
        close_body = getattr(self.body, "aclose", None)
        if close_body is not None:
            await close_body()
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            await on_close()


class Upstream(Protocol):
    """A model server. Its methods run in the gateway's event loop, many calls at once."""

    @property
    def name(self) -> str:
        """Return what logs and error messages call it."""
        ...

    @property
    def capabilities(self) -> UpstreamCapabilities:
        """Return what it can say about tokens."""
        ...

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """Start a call and return as soon as its status is known.

        Cancelling this coroutine, or closing the answer, cancels the generation. An upstream
        answers mistakes of the client with a status and an OpenAI error body, not by raising.

        Raises:
            UpstreamError: There is no answer: it cannot be reached, or took too long.
        """
        ...

    async def aclose(self) -> None:
        """Release connections; idempotent."""
        ...


@runtime_checkable
class RemembersConversations(Protocol):
    """An upstream that keeps something of each conversation, and need not once it has ended."""

    def forget(self, conversation: str) -> None:
        """Free what is kept of a conversation; unknown ones are no error. Must not block."""
        ...
