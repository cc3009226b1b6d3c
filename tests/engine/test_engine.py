"""The engine's thread: sampling for many callers, pausing, stopping, dying."""

import asyncio
import copy
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError

import pytest

from agentlightning.engine.engine import Engine
from agentlightning.engine.loading import LoadedModel
from agentlightning.engine.sampling import SamplingParams
from agentlightning.errors import ContextLengthError, EngineDeadError, EngineError, RequestError
from tests.engine.reference import reference_logprobs

PROMPT = list(range(30, 60))
MakeEngine = Callable[..., Engine]


def params(tokens: int = 8, **extra: object) -> SamplingParams:
    return SamplingParams(max_tokens=tokens, ignore_eos=True, **extra)


async def test_many_callers_in_many_loops_get_exact_completions(
    tiny: LoadedModel, engine: Engine
) -> None:
    """Calls from several event loops at once each get their own exact completion."""

    def other_loop() -> None:
        results.append(asyncio.run(engine.generate(PROMPT, params())))

    results: list[object] = []
    threads = [threading.Thread(target=other_loop) for _ in range(3)]
    for thread in threads:
        thread.start()
    here = await asyncio.gather(*[engine.generate(PROMPT, params(4 + i)) for i in range(4)])
    for thread in threads:
        await asyncio.to_thread(thread.join)
    for generation in [*here, *results]:
        expected = reference_logprobs(tiny.model, generation)
        assert list(generation.logprobs) == pytest.approx(expected, abs=1e-4)
    assert engine.stats().sampled_tokens == sum(range(4, 8)) + 3 * 8


async def test_completion_ends_where_the_context_does(make_engine: MakeEngine) -> None:
    """Without a limit a completion fills the context and ends with `length`."""
    engine = make_engine(max_context=40)
    generation = await engine.generate(PROMPT, SamplingParams(ignore_eos=True))
    assert (len(generation.token_ids), generation.finish_reason) == (10, "length")


async def test_prompts_that_cannot_be_sampled_are_refused(make_engine: MakeEngine) -> None:
    """Too long, empty and foreign prompts raise errors with the status and code of OpenAI's."""
    engine = make_engine(max_context=30)
    with pytest.raises(ContextLengthError) as caught:
        await engine.generate(PROMPT)
    assert (caught.value.status, caught.value.error_code) == (400, "context_length_exceeded")
    for prompt in ([], [10**6], [-1]):
        with pytest.raises(RequestError):
            await engine.generate(prompt)


async def test_cancelling_takes_the_request_out(engine: Engine) -> None:
    """A cancelled await leaves no row behind, and the engine goes on."""
    seen = asyncio.Event()
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(
        engine.generate(
            PROMPT, params(400), on_token=lambda _: loop.call_soon_threadsafe(seen.set) and None
        )
    )
    await seen.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await engine.generate(PROMPT, params(2))
    assert engine.stats().running == 0
    assert engine.stats().sampled_tokens < 400


async def test_pause_wait_drains_and_holds_new_requests(engine: Engine) -> None:
    """`wait` returns when running completions are done; new ones start after `resume`."""
    running = asyncio.create_task(engine.generate(PROMPT, params(50)))
    while not engine.stats().running:
        await asyncio.sleep(0)
    await engine.pause()
    late = asyncio.create_task(engine.generate(PROMPT, params(2)))
    await asyncio.sleep(0.05)
    assert running.done()
    assert not late.done()
    assert engine.stats().paused
    engine.set_version(3)
    engine.resume()
    assert (await late).versions == ((0, 2, 3),)
    assert (await running).versions == ((0, 50, 0),)


async def test_pause_keep_freezes_and_goes_on_under_new_weights(engine: Engine) -> None:
    """`keep` stops between two tokens; the completion then tells both versions."""
    running = asyncio.create_task(engine.generate(PROMPT, params(200)))
    while engine.stats().sampled_tokens < 3:
        await asyncio.sleep(0)
    await engine.pause(mode="keep")
    before = engine.stats().sampled_tokens
    await asyncio.sleep(0.05)
    assert engine.stats().sampled_tokens == before
    engine.set_version(1)
    engine.resume()
    first, second = (await running).versions
    assert first == (0, before, 0)
    assert second == (before, 200 - before, 1)


async def test_pause_that_takes_too_long_resumes(engine: Engine) -> None:
    """A `wait` beyond its timeout raises and lets the engine run on."""
    running = asyncio.create_task(engine.generate(PROMPT, params(300)))
    while not engine.stats().running:
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await engine.pause(timeout=0.001)
    assert not engine.stats().paused
    assert len((await running).token_ids) == 300


async def test_stop_aborts_and_start_goes_on(engine: Engine) -> None:
    """Stopping ends completions with `abort`; a stopped engine refuses, a restarted one works."""
    running = asyncio.create_task(engine.generate(PROMPT, params(400)))
    while not engine.stats().running:
        await asyncio.sleep(0)
    await asyncio.to_thread(engine.stop)
    assert (await running).finish_reason == "abort"
    with pytest.raises(EngineError, match="start"):
        await engine.generate(PROMPT)
    engine.start()
    assert (await engine.generate(PROMPT, params(2))).finish_reason == "length"


async def test_an_error_in_the_thread_fails_everyone(
    tiny: LoadedModel, make_engine: MakeEngine
) -> None:
    """When a forward call fails, running and later calls raise with the cause chained."""
    model = copy.deepcopy(tiny.model)
    engine = make_engine(model)
    await engine.generate(PROMPT, params(2))
    del model.model.layers[0].mlp.up_proj
    calls = [engine.generate(PROMPT, params(2)) for _ in range(3)]
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, EngineDeadError)
        assert isinstance(outcome.__cause__, AttributeError)
    with pytest.raises(EngineDeadError):
        await engine.generate(PROMPT)
    with pytest.raises(EngineDeadError):
        await engine.pause()
    with pytest.raises(EngineDeadError):
        engine.start()


def test_submit_works_without_an_event_loop(engine: Engine) -> None:
    """Threads without a loop get a future, which can be cancelled."""
    assert len(engine.submit(PROMPT, params(3)).result(30).token_ids) == 3
    future = engine.submit(PROMPT, params(400))
    future.cancel()
    with pytest.raises(CancelledError):
        future.result(30)


async def test_equal_engines_repeat_each_other(make_engine: MakeEngine) -> None:
    """With a seed in the configuration, equal requests in equal order sample equal tokens."""
    results = []
    for _ in range(2):
        engine = make_engine(seed=11)
        results.append([(await engine.generate(PROMPT, params())).token_ids for _ in range(2)])
    assert results[0] == results[1]
    assert results[0][0] != results[0][1]
