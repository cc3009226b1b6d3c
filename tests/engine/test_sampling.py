"""Drawing tokens."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlightning.engine.sampling import SamplingParams, derive_seed, draw_tokens, uniforms


def draw_many(logits: torch.Tensor, params: SamplingParams, count: int) -> np.ndarray:
    numbers = uniforms(np.full(count, 7, np.uint64), np.arange(count, dtype=np.uint64))
    return np.array(draw_tokens(logits.expand(count, -1), [params] * count, numbers).tokens)


def test_uniforms_are_spread_and_repeat() -> None:
    """Numbers lie in [0, 1), look uniform, and depend on seed and step alone."""
    seeds, steps = np.full(20_000, 3, np.uint64), np.arange(20_000, dtype=np.uint64)
    numbers = uniforms(seeds, steps)
    assert 0 <= numbers.min() < numbers.max() < 1
    assert np.histogram(numbers, 10, (0, 1))[0].min() > 1800
    assert uniforms(seeds[5:6], steps[5:6]) == numbers[5]
    assert np.abs(np.corrcoef(numbers, uniforms(seeds + np.uint64(1), steps))[0, 1]) < 0.03


def test_frequencies_match_the_distribution() -> None:
    """Drawn tokens are as frequent as the softmax says, also across blocks of the vocabulary."""
    torch.manual_seed(0)
    logits = torch.full((1, 700), -30.0)
    logits[0, [0, 255, 256, 511, 699]] = torch.tensor([0.0, 1.0, 2.0, 0.5, 1.5])
    counts = np.bincount(draw_many(logits, SamplingParams(), 40_000), minlength=700) / 40_000
    assert np.abs(counts - logits[0].softmax(0).numpy()).max() < 0.01


def test_greedy_takes_the_likeliest_and_tells_temperature_one() -> None:
    """Temperature 0 returns the argmax with its log-probability at temperature 1."""
    logits = torch.randn(3, 300, generator=torch.Generator().manual_seed(1))
    draw = draw_tokens(logits, [SamplingParams(temperature=0)] * 3, np.zeros(3))
    assert draw.tokens == logits.argmax(1).tolist()
    assert draw.logprobs == pytest.approx(logits.log_softmax(1).max(1).values.tolist(), abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    number=st.floats(0, 1, exclude_max=True),
    width=st.sampled_from([2, 255, 256, 300, 1025]),
)
def test_logprob_is_that_of_the_tempered_distribution(
    seed: int, temperature: float, number: float, width: int
) -> None:
    """The told log-probability is the log-softmax of logits / temperature at the drawn token."""
    logits = 4 * torch.randn(1, width, generator=torch.Generator().manual_seed(seed))
    params = SamplingParams(temperature=temperature)
    draw = draw_tokens(logits, [params], np.array([number * (1 - 2**-48)]))
    expected = (logits / temperature).log_softmax(1)[0, draw.tokens[0]].item()
    assert draw.logprobs[0] == pytest.approx(expected, abs=1e-4)


def test_extreme_numbers_never_draw_impossible_tokens() -> None:
    """The first and the last number pick tokens that have probability."""
    logits = torch.full((2, 600), -torch.inf)
    logits[:, 300] = 0.0
    draw = draw_tokens(logits, [SamplingParams()] * 2, np.array([0.0, 1 - 2.0**-48]))
    assert draw.tokens == [300, 300]
    assert draw.logprobs == [0.0, 0.0]


def test_top_k_and_top_p_cut_and_renormalise() -> None:
    """Restricted sampling stays within the kept tokens and tells their renormalised values."""
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()
    by_k = draw_many(logits, SamplingParams(top_k=2), 200)
    by_p = draw_many(logits, SamplingParams(top_p=0.7), 200)
    assert set(by_k) == set(by_p) == {0, 1}
    draw = draw_tokens(logits, [SamplingParams(top_k=2)], np.array([0.0]))
    assert draw.logprobs[0] == pytest.approx(np.log(2 / 3), abs=1e-6)


def test_rows_keep_their_own_parameters() -> None:
    """Greedy, tempered and restricted rows share a batch without touching each other."""
    logits = torch.randn(3, 400, generator=torch.Generator().manual_seed(2))
    params = [
        SamplingParams(temperature=0),
        SamplingParams(temperature=0.7, top_logprobs=3),
        SamplingParams(top_k=1),
    ]
    together = draw_tokens(logits, params, np.array([0.1, 0.5, 0.9]))
    for row in range(3):
        alone = draw_tokens(logits[row : row + 1], [params[row]], np.array([[0.1, 0.5, 0.9][row]]))
        assert together.tokens[row] == alone.tokens[0]
        assert together.logprobs[row] == pytest.approx(alone.logprobs[0], abs=1e-6)
    assert together.top_tokens[1] == logits[1].topk(3).indices.tolist()


def test_choices_of_one_seed_differ() -> None:
    """The completions of a request with a seed get different 64-bit seeds."""
    seeds = {derive_seed(5, index) for index in range(100)} | {derive_seed(-1, 0)}
    assert len(seeds) == 101
    assert all(0 <= seed < 2**64 for seed in seeds)
