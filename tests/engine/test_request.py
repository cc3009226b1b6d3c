"""Requests and generations."""

from agentlightning.engine.request import Generation, Request
from agentlightning.engine.sampling import SamplingParams


def test_versions_are_told_in_runs() -> None:
    """Tokens of one version in a row are one run; the runs cover every token."""
    done: list[Generation] = []
    request = Request(
        prompt_ids=(1,),
        params=SamplingParams(),
        seed=0,
        stop_ids=frozenset(),
        max_tokens=9,
        on_done=done.append,
        on_error=lambda error: None,
    )
    request.token_ids, request.logprobs = [5, 6, 7, 8], [0.0] * 4
    request.versions = [1, 1, 2, 1]
    request.finish("length")
    assert done[0].versions == ((0, 2, 1), (2, 1, 2), (3, 1, 1))
    request.token_ids, request.versions = [], []
    request.finish("abort")
    assert done[1].versions == ()
