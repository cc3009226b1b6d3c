"""What the chat layer needs of whoever samples: token ids in, token ids out.

The embedded engine is one; a model server elsewhere may be another. Templates, exact history, tool
calls and reasoning are made above it, so they are the same whichever samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from agentlightning.engine.request import Generation, TokenCallback
from agentlightning.engine.sampling import SamplingParams

__all__ = ["TokenSource"]


class TokenSource(Protocol):
    """Samples completions of one model; its methods may be called from any event loop."""

    @property
    def tokenizer(self) -> Any:
        """Return the model's tokenizer, of Hugging Face's kind."""
        ...

    @property
    def context(self) -> int:
        """Return the most tokens that prompt and completion have together."""
        ...

    @property
    def eos_ids(self) -> frozenset[int]:
        """Return every id that ends a completion by itself."""
        ...

    @property
    def version(self) -> int:
        """Return the version of the weights that a call made now is sampled with."""
        ...

    def check_prompt(self, ids: Sequence[int]) -> None:
        """Refuse what `generate` would refuse, without sampling.

        Raises:
            ContextLengthError: The prompt leaves no room for a single token.
            RequestError: The prompt is empty or holds an id outside the vocabulary.
            EngineError: Nothing can be sampled now.
        """
        ...

    async def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        on_token: TokenCallback | None = None,
    ) -> Generation:
        """Sample one completion; cancelling the awaiting task withdraws it.

        Args:
            prompt_ids: Token ids of the rendered prompt, not empty.
            params: How to sample.
            adapter: LoRA adapter to sample with; None is what the source takes for its model.
            on_token: Called for each token, in any thread, so it must be quick; may return True to
                end the completion.

        Raises:
            RequestError: The request cannot be served; also where the server is overloaded.
            EngineError: Nothing can be sampled now.
            UpstreamError: The server failed or cannot be reached.
        """
        ...
