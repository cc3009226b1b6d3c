"""Continuous batching against full forward calls."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from agentlightning.engine.loading import LoadedModel
from agentlightning.engine.request import Generation, Request, TokenCallback
from agentlightning.engine.sampler import Sampler
from agentlightning.engine.sampling import SamplingParams
from tests.engine.reference import reference_logprobs

TOLERANCE = 1e-4


class Bench:
    """A sampler with a list of what it finished."""

    def __init__(self, model: Any, **limits: int) -> None:
        settings = {
            "max_running": 16,
            "max_kv_bytes": 2**28,
            "max_prefix_bytes": 2**24,
            "prefill_tokens": 256,
        }
        self.sampler = Sampler(model, **{**settings, **limits})
        self.done: dict[int, Generation] = {}
        self.errors: list[BaseException] = []

    def add(
        self,
        key: int,
        prompt: list[int],
        *,
        tokens: int = 12,
        stop: set[int] | None = None,
        on_token: TokenCallback | None = None,
        **params: Any,
    ) -> Request:
        request = Request(
            prompt_ids=tuple(prompt),
            params=SamplingParams(**params),
            seed=key,
            stop_ids=frozenset(stop or ()),
            max_tokens=tokens,
            on_done=lambda generation: self.done.__setitem__(key, generation),
            on_error=self.errors.append,
            on_token=on_token,
        )
        self.sampler.add(request)
        return request

    def run(self) -> None:
        while self.sampler.step():
            pass


@pytest.fixture
def bench(tiny: LoadedModel) -> Callable[..., Bench]:
    return lambda **limits: Bench(tiny.model, **limits)


def prompt(seed: int, length: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 250, (length,), generator=generator).tolist()


def agree(model: Any, generation: Generation, temperature: float = 1.0) -> None:
    expected = reference_logprobs(model, generation, temperature)
    assert list(generation.logprobs) == pytest.approx(expected, abs=TOLERANCE)


def test_ragged_batch_agrees_with_full_forward(
    tiny: LoadedModel, bench: Callable[..., Bench]
) -> None:
    """Prompts of many lengths, with one token and with several blocks, sample exactly."""
    run = bench()
    for key, length in enumerate((1, 2, 15, 16, 17, 40, 90)):
        run.add(key, prompt(key, length), tokens=5 + key)
    run.run()
    assert [len(run.done[key].token_ids) for key in range(7)] == list(range(5, 12))
    for generation in run.done.values():
        agree(tiny.model, generation)


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.7])
def test_group_shares_a_prefill_and_agrees(
    tiny: LoadedModel, bench: Callable[..., Bench], temperature: float
) -> None:
    """Equal prompts are computed once, and each member still has exact log-probabilities."""
    run = bench()
    for key in range(6):
        run.add(key, prompt(1, 37), temperature=temperature)
    run.run()
    assert run.sampler.counters.cached_prompt_tokens == 5 * 37
    for generation in run.done.values():
        agree(tiny.model, generation, temperature or 1.0)
    distinct = {generation.token_ids for generation in run.done.values()}
    assert len(distinct) == (1 if temperature == 0 else 6)


def test_follow_up_turn_prefills_only_what_is_new(
    tiny: LoadedModel, bench: Callable[..., Bench]
) -> None:
    """A prompt that continues a finished completion starts from the prefix cache, exactly."""
    run = bench()
    run.add(0, prompt(3, 50), tokens=30)
    run.run()
    first = run.done[0]
    run.add(1, [*first.prompt_ids, *first.token_ids, *prompt(4, 10)])
    run.run()
    # 79 columns were known of the first turn, the last sampled token has none: 4 blocks.
    assert run.done[1].cached_prompt_tokens == 64
    agree(tiny.model, run.done[1])


def test_rows_join_and_leave_between_steps(tiny: LoadedModel, bench: Callable[..., Bench]) -> None:
    """Requests that arrive while others run, or are cancelled, do not disturb the rest."""
    run = bench(max_running=4)
    cancelled = run.add(99, prompt(9, 20), tokens=50)
    for key in range(9):
        run.add(key, prompt(key, 5 + 7 * key), tokens=3 + 4 * (key % 3))
        run.sampler.step()
        assert run.sampler.running <= 4
        if key == 4:
            cancelled.cancelled = True
    run.run()
    assert set(run.done) == set(range(9))
    for generation in run.done.values():
        agree(tiny.model, generation)


def test_a_seed_gives_the_same_tokens_in_any_company(bench: Callable[..., Bench]) -> None:
    """A seeded request samples the same tokens alone and in a crowd, in fp32."""
    alone = bench()
    alone.add(5, prompt(5, 23))
    alone.run()
    crowd = bench(max_prefix_bytes=0)
    for key in range(9):
        crowd.add(key, prompt(key, 23 if key == 5 else 10 + key))
    crowd.run()
    assert crowd.done[5].token_ids == alone.done[5].token_ids


def test_long_prompt_is_prefilled_in_chunks(tiny: LoadedModel, bench: Callable[..., Bench]) -> None:
    """A prompt beyond the prefill bound, beside a short one, gives exact log-probabilities."""
    run = bench(prefill_tokens=64)
    run.add(0, prompt(0, 200))
    run.add(1, prompt(1, 9))
    run.run()
    for generation in run.done.values():
        agree(tiny.model, generation)


def test_new_weights_drop_the_prefix_cache_and_mark_tokens(
    tiny: LoadedModel, bench: Callable[..., Bench]
) -> None:
    """After a new version nothing cached is used, and tokens tell which version sampled them."""
    run = bench()
    run.add(0, prompt(0, 40), tokens=6)
    run.sampler.step()
    run.sampler.step()
    run.sampler.set_version(1)
    run.add(1, prompt(0, 40), tokens=2)
    run.run()
    assert run.done[0].versions == ((0, 3, 0), (3, 3, 1))
    assert run.done[1].versions == ((0, 2, 1),)
    assert run.done[1].cached_prompt_tokens == 0
    run.add(2, [*run.done[0].prompt_ids, *run.done[0].token_ids, 1, 2, 3], tokens=2)
    run.run()
    # Only the second request's prompt may be cached: the first one's columns mix two versions.
    assert run.done[2].cached_prompt_tokens == 32
    agree(tiny.model, run.done[2])


def test_stop_ids_and_callbacks_end_a_completion(bench: Callable[..., Bench]) -> None:
    """A stop id is the last token; a callback's True ends with `stop`; else it is `length`."""
    run = bench()
    run.add(0, prompt(0, 8), stop=set(range(266)))
    run.add(1, prompt(1, 8), on_token=lambda event: event.token_id >= 0)
    run.add(2, prompt(2, 8), tokens=3)
    run.run()
    assert [len(run.done[key].token_ids) for key in range(3)] == [1, 1, 3]
    assert [run.done[key].finish_reason for key in range(3)] == ["stop", "stop", "length"]


def test_a_failing_callback_ends_its_own_request_only(bench: Callable[..., Bench]) -> None:
    """An error in `on_token` goes to its request; batch mates finish."""
    run = bench()
    run.add(0, prompt(0, 8), on_token=lambda event: bool(1 / 0))
    run.add(1, prompt(1, 8))
    run.run()
    assert set(run.done) == {1}
    assert isinstance(run.errors[0], ZeroDivisionError)


def test_prefix_cache_may_be_tiny_or_off(tiny: LoadedModel, bench: Callable[..., Bench]) -> None:
    """Eviction under pressure and a cache of no size leave log-probabilities exact."""
    for size in (0, 3 * 16 * 512):
        run = bench(max_prefix_bytes=size)
        for key in range(8):
            run.add(key, [*prompt(key % 3, 40), *prompt(key, 20)], tokens=20)
            run.sampler.step()
        run.run()
        for generation in run.done.values():
            agree(tiny.model, generation)


def test_memory_bound_limits_the_batch_but_lets_one_in(bench: Callable[..., Bench]) -> None:
    """When two requests do not fit together they run one after the other."""
    run = bench(max_kv_bytes=1)
    for key in range(2):
        run.add(key, prompt(key, 30))
    run.sampler.step()
    assert (run.sampler.running, run.sampler.waiting) == (1, 1)
    run.run()
    assert set(run.done) == {0, 1}


def test_lora_in_fp32_on_a_bf16_base(tiny: LoadedModel) -> None:
    """Adapters injected by peft are sampled unmerged and agree with the same model's forward."""
    import copy

    from peft import LoraConfig, inject_adapter_in_model

    base = copy.deepcopy(tiny.model).to(torch.bfloat16)
    torch.manual_seed(0)
    model: Any = inject_adapter_in_model(
        LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"]), base
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.nn.init.normal_(parameter.data.float(), std=0.2)
    run = Bench(model.eval())
    for key in range(4):
        run.add(key, prompt(key % 2, 20))
    run.run()
    for generation in run.done.values():
        expected = reference_logprobs(model, generation)
        assert list(generation.logprobs) == pytest.approx(expected, abs=0.05)
