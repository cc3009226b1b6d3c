"""OpenAI completions: prompts as text or as token ids, several in one call, passed on natively.

A choice of a call with several prompts is recorded with its own prompt
(`CallChoice.prompt_token_ids`); choices of a server that does not say which are recorded as having
none, rather than one of another.
"""

from __future__ import annotations

from typing import Any, cast

from agentlightning.errors import RequestError
from agentlightning.gateway.dialects.base import CapturedAnswer, Exchange, ModelCall
from agentlightning.gateway.dialects.choice import ChoiceCapture
from agentlightning.gateway.dialects.openai_exchange import OpenAIDialect, OpenAIExchange
from agentlightning.gateway.models import ModelRoute

__all__ = ["CompletionsDialect"]


class CompletionsDialect(OpenAIDialect):
    """`POST /v1/completions`."""

    name = "openai.completions"
    paths = frozenset({"/v1/completions"})

    def begin(self, call: ModelCall) -> Exchange:
        return _CompletionExchange(call.request, call.body, call.route)


class _CompletionExchange(OpenAIExchange):
    path = "/v1/completions"
    chunk_kind = "text_completion"

    def __init__(self, request: dict[str, Any], body: bytes, route: ModelRoute) -> None:
        wanted = _count(request.get("n"))
        if route.trained and _count(request.get("best_of")) > wanted:
            raise RequestError(
                "best_of above n keeps the likeliest of several answers, which is not what the "
                "model sampled and cannot be learnt from. Leave best_of out, or ask for n.",
                error_code="unsupported_parameter",
                param="best_of",
            )
        said = request.get("logprobs")
        # Zero is enough for the sampled tokens; servers that tell ids in log-probabilities only
        # take it for a no.
        asked = 0 if route.upstream.capabilities.token_ids else 1
        logprobs = None if isinstance(said, int) and not isinstance(said, bool) else asked
        self._prompts = _prompts(request.get("prompt"))
        self._echoes = bool(request.get("echo"))
        choices = wanted * self._prompts
        # Asked for ids, vLLM leaves out the text of an echoed prompt, which the client wants.
        super().__init__(
            request, body, route, logprobs=logprobs, choices=choices, capture=not self._echoes
        )
        # To score a prompt, servers may sample a token that is no part of the answer.
        self._scores = self._echoes and request.get("max_tokens") == 0

    def answer(self) -> CapturedAnswer:
        captured = self._captured
        if self._prompts > 1:
            captured.prompt_token_ids = []
            for capture in self._choices.values():
                if capture.prompt_token_ids is None:
                    capture.prompt_token_ids = []
        captured = super().answer()
        for choice in captured.choices if self._scores else ():
            choice.token_ids, choice.logprobs, choice.versions = [], [], []
        return captured

    def _take_whole_choice(self, capture: ChoiceCapture, choice: dict[str, Any]) -> None:
        self._take_chunk(capture, choice)

    def _take_chunk(self, capture: ChoiceCapture, choice: dict[str, Any]) -> None:
        capture.echoes_prompt = self._echoes
        capture.take_delta({"role": "assistant", "content": str(choice.get("text") or "")})


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 1


def _prompts(prompt: Any) -> int:
    """Return how many prompts there are: a list of numbers is one."""
    if not isinstance(prompt, list):
        return 1
    items = cast("list[Any]", prompt)
    return len(items) if items and not isinstance(items[0], int) else 1
