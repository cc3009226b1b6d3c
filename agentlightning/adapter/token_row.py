"""What the token tree gives out: rows of tokens, and an account of how they came about.

Plain values over numpy arrays. Rewards, advantages and weights come later, in `learning`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Departure",
    "ForkCause",
    "ImageRef",
    "MaskCause",
    "RowSpan",
    "TokenRow",
    "TreeReport",
]


class ForkCause(StrEnum):
    """Why a call did not extend an earlier one exactly."""

    SAMPLE = "sample"
    """The same prompt was sampled again: `n > 1`, or a retry."""

    CONTEXT = "context"
    """The prompts differ in tokens that nobody sampled: another agent, a compacted history."""

    TOOLS = "tools"
    """Likewise, and the same agent's tools are others than before."""

    TEMPLATE = "template"
    """The history shows a sampled answer as the template writes it: reasoning stripped, for
    instance."""

    RETOKEN = "retoken"
    """The history shows a sampled answer with the same text in other tokens."""

    WHITESPACE = "whitespace"
    """The history shows a sampled answer with other blanks."""

    TOOL_JSON = "tool_json"
    """The history shows a sampled answer whose JSON says the same in other characters."""

    TRUNCATED = "truncated"
    """The history shows otherwise an answer that was cut off at its length limit."""

    EDITED = "edited"
    """The client sent another answer than it was given."""

    DRIFT = "drift"
    """One of the last six; which of them is only known when `decode` is given."""


class MaskCause(StrEnum):
    """Why sampled tokens are not trained."""

    ROLE = "role"
    """The call was made by an agent, or a model, that is not being trained."""

    FAILED = "failed"
    """The call ended in an error or was cancelled."""

    TRUNCATED = "truncated"
    """The answer hit its length limit, and such answers are masked by choice."""

    REALIGNED = "realigned"
    """The answer was demoted to context, so that the drifted history goes on in one row."""

    OVERLONG = "overlong"
    """The row would be longer than allowed up to here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSpan:
    """Tokens `start` to `stop` of a row, sampled by one choice of one call."""

    start: int
    stop: int
    call_id: str
    choice: int
    role: str
    trained: bool
    """Whether this row trains them; false for a span that another row trains or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """An image behind the placeholder tokens `start` to `stop` of a row."""

    start: int
    stop: int
    url: str | None
    """As the client sent it, perhaps with the image in it; None when it is not known which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """Where a call's prompt departs from what was served before it."""

    call_id: str
    position: int
    """Token of the prompt that is the first to differ."""

    cause: ForkCause
    expected: tuple[int, ...]
    """What stood there before, some tokens of it."""

    got: tuple[int, ...]
    answer_of: str | None = None
    """Call whose answer it departs from; None where the prompts differ in context."""

    lost: int = 0
    """Tokens of that answer from there on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """One path through the tree: what one call saw and sampled, exactly.

    Index `t` of each array describes token `ids[t]`; `logp[t]` is its log-probability given
    `ids[:t]`.
    """

    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]
    """True on the tokens that this row trains; never on index 0."""

    logp: NDArray[np.float32]
    """As reported when sampling; NaN on sampled tokens without one, 0 on context."""

    versions: NDArray[np.int32]
    """Weight version that sampled each token; -1 on context and where unknown."""

    spans: tuple[RowSpan, ...]

    images: tuple[ImageRef, ...] = ()
    """In order; empty unless the builder was told which tokens stand for images."""

    @property
    def role(self) -> str:
        """Role of the first span that this row trains."""
        return next((span.role for span in self.spans if span.trained), "")

    @property
    def call_ids(self) -> tuple[str, ...]:
        """Calls with tokens in this row, in order and without repetition."""
        return tuple(dict.fromkeys(span.call_id for span in self.spans))


@dataclass(slots=True, kw_only=True)
class TreeReport:
    """How the calls of one or more attempts became rows."""

    calls: int = 0
    calls_without_tokens: int = 0
    """Calls that could not be used: their model server gave no token ids."""

    calls_with_unknown_images: int = 0
    """Calls whose placeholders do not match their images; they merge with no other."""

    samples: int = 0
    """Sampled answers, one for each choice of each call."""

    samples_without_logprobs: int = 0
    rows: int = 0
    row_tokens: int = 0
    call_tokens: int = 0
    """Prompt and sampled tokens of every answer, as if each were a row of its own."""

    sampled_tokens: int = 0
    trained_tokens: int = 0
    masked_tokens: Counter[MaskCause] = field(default_factory=Counter[MaskCause])
    forks: Counter[ForkCause] = field(default_factory=Counter[ForkCause])
    drift_tokens: int = 0
    """Sampled tokens that a later prompt rendered otherwise."""

    departures: list[Departure] = field(default_factory=list[Departure])
    """The first few of each attempt, with the tokens in question."""

    @property
    def merge_ratio(self) -> float:
        """Answers per row; 1 when nothing merged, the number of turns when all did."""
        return self.samples / self.rows if self.rows else 0.0

    @classmethod
    def total(cls, reports: Iterable["TreeReport"]) -> "TreeReport":
        """Add up reports of several attempts."""
        result = cls()
        for report in reports:
            for name in cls.__dataclass_fields__:
                setattr(result, name, getattr(result, name) + getattr(report, name))
        return result
