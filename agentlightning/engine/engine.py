"""The engine: a thread that drives a sampler, and the calls that other threads make of it.

It knows tokens only; messages, text and HTTP are `chat` and `service`. It never changes weights:
whoever does pauses it first and tells it the new version afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

from agentlightning._internal.clock import monotonic
from agentlightning.engine.adapters import BASE
from agentlightning.engine.request import Generation, Request, TokenCallback, check_prompt_ids
from agentlightning.engine.sampler import Sampler
from agentlightning.engine.sampling import SamplingParams
from agentlightning.errors import EngineDeadError, EngineError, RequestError

__all__ = ["Engine", "EngineConfig", "EngineStats", "PauseMode", "eos_ids_of"]

logger = logging.getLogger(__name__)

PauseMode = Literal["wait", "keep"]
"""`wait` lets running completions finish; `keep` freezes them between two tokens, to go on under
the new weights."""

_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Limits of an engine."""

    max_running: int = 64
    """Most completions in one batch; the others wait their turn."""
    max_context: int | None = None
    """Longest prompt and completion together, in tokens; None: what the model was made for."""
    kv_cache_gib: float = 4.0
    """Memory for running completions. What is not used is not taken on a CPU."""
    prefix_cache_gib: float = 1.0
    """Memory for beginnings seen before; 0 turns the prefix cache off."""
    prefill_tokens: int = 2048
    """Most prompt tokens in one forward call; running completions wait that long."""
    seed: int | None = None
    """Seed of requests that bring none; with it, equal requests in equal order repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """What an engine has done so far and does now."""

    running: int
    waiting: int
    version: int
    paused: bool
    prompt_tokens: int
    cached_prompt_tokens: int
    """Prompt tokens that needed no computing."""
    prefix_cache_tokens: int
    """Tokens that the prefix cache holds now."""
    sampled_tokens: int
    steps: int
    """Forward calls."""
    busy_seconds: float
    """Wall time spent in forward calls and sampling."""


class Engine:
    """Samples completions of one model for any number of threads and event loops.

    Completions run together in one batch; they join and leave between two tokens. The engine
    reads the module's weights at every step and never copies them, so a trainer may change them
    in place while the engine is paused.
    """

    def __init__(self, model: Any, tokenizer: Any, *, config: EngineConfig | None = None) -> None:
        """Prepare an engine; nothing runs before `start`.

        Args:
            model: A Hugging Face causal language model, with or without LoRA injected by peft.
            tokenizer: Its tokenizer.
            config: Limits.

        Raises:
            ConfigurationError: The model's architecture is not supported.
        """
        self.config = config or EngineConfig()
        self.tokenizer = tokenizer
        self.context: int = self.config.max_context or model.config.max_position_embeddings
        """Most tokens of prompt and completion together."""
        self.vocabulary: int = model.config.vocab_size
        self.eos_ids = eos_ids_of(model, tokenizer)
        self._sampler = Sampler(
            model,
            max_running=self.config.max_running,
            max_kv_bytes=int(self.config.kv_cache_gib * _GIB),
            max_prefix_bytes=int(self.config.prefix_cache_gib * _GIB),
            prefill_tokens=self.config.prefill_tokens,
        )
        self._random = random.Random(self.config.seed)
        # Guards the fields below; the thread sleeps on it.
        self._changed = threading.Condition()
        self._stepping = threading.Lock()
        """Held during each step, so that nobody changes the version in the middle of one."""
        self._inbox: deque[Request] = deque()
        self._pause: PauseMode | None = None
        self._still: list[Future[None]] = []
        """Futures of `pause` calls that wait for the thread to stand still."""
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._death: BaseException | None = None
        self._busy_seconds = 0.0

    # -- life cycle -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the engine's thread; a second call does nothing.

        Raises:
            EngineDeadError: The thread ended with an error before.
        """
        with self._changed:
            self._check_alive()
            if self._thread is not None:
                return
            self._stopping = False
            self._thread = threading.Thread(target=self._run, name="agl-engine", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread; running and waiting completions end with `abort`. Idempotent."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._stopping = True
            self._changed.notify_all()
        if thread is not None:
            thread.join()

    # -- sampling -------------------------------------------------------------------------------

    async def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        on_token: TokenCallback | None = None,
    ) -> Generation:
        """Sample one completion; callable from any event loop, many at once.

        Requests with equal prompts share their prefill. Cancelling the awaiting task takes the
        request out of the batch.

        Args:
            prompt_ids: Token ids of the rendered prompt, not empty.
            params: How to sample.
            adapter: LoRA adapter of the model to sample with; None is the one called `default`, if
                there is one, else the base. `adapters.BASE` is always the base.
            on_token: Called in the engine's thread for each token, so it must be quick; may
                return True to end the completion. An error in it ends this request alone.

        Raises:
            ContextLengthError: The prompt leaves no room for a single token.
            RequestError: The prompt is empty or holds an id outside the vocabulary, or the model
                has no such adapter.
            EngineDeadError: The thread ended with an error, which is the cause.
            EngineError: The engine is not running.
        """
        future = self.submit(prompt_ids, params, adapter=adapter, on_token=on_token)
        return await asyncio.wrap_future(future)

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        on_token: TokenCallback | None = None,
    ) -> Future[Generation]:
        """Like `generate`, for code without an event loop; cancel the future to withdraw."""
        params = params or SamplingParams()
        ids = tuple(prompt_ids)
        self.check_prompt(ids)
        self._check_adapter(adapter)
        future: Future[Generation] = Future()
        room = self.context - len(ids)
        request = Request(
            prompt_ids=ids,
            params=params,
            seed=self._random.getrandbits(64) if params.seed is None else params.seed % 2**64,
            stop_ids=frozenset(params.stop_token_ids)
            | (frozenset[int]() if params.ignore_eos else self.eos_ids),
            max_tokens=room if params.max_tokens is None else min(room, params.max_tokens),
            on_done=lambda generation: _settle(future, generation),
            on_error=lambda error: _fail(future, error),
            on_token=on_token,
            adapter=adapter,
        )
        with self._changed:
            self._check_running()
            self._inbox.append(request)
            self._changed.notify_all()
        future.add_done_callback(lambda done: self._withdraw(request, done))
        return future

    def check_prompt(self, ids: Sequence[int]) -> None:
        """Refuse what `generate` would refuse, without sampling.

        Raises:
            ContextLengthError: The prompt leaves no room for a single token.
            RequestError: The prompt is empty or holds an id outside the vocabulary.
            EngineError: The engine is dead or not running.
        """
        self._check_running()
        check_prompt_ids(ids, vocabulary=self.vocabulary, context=self.context)

    def _check_adapter(self, name: str | None) -> None:
        if name not in (None, BASE, *self.adapters):
            raise RequestError(
                f"the model has no adapter {name!r}; it has {sorted(self.adapters)}",
                param="model",
                status=404,
                error_code="model_not_found",
            )

    def _withdraw(self, request: Request, done: Future[Generation]) -> None:
        if done.cancelled():
            request.cancelled = True

    # -- weights --------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Return the version of the weights that tokens are sampled with now."""
        return self._sampler.version

    @property
    def adapters(self) -> frozenset[str]:
        """Return the names of the model's LoRA adapters, as of the last `set_version`."""
        return self._sampler.adapters

    def set_version(self, version: int, *, adapters: Collection[str] | None = None) -> None:
        """Say that the weights are now `version`; cached keys and values are forgotten.

        Call it after every change, of adapters too, and before `resume`: until then adapters may
        be sampled as they were. Completions frozen by `pause(mode="keep")` go on with the keys and
        values they have; their `versions` tell where the change fell.

        Args:
            version: What tokens are sampled with from now on, whichever adapter they need.
            adapters: Those that changed, if nothing else did: what is cached for others stays.
        """
        with self._stepping:
            self._sampler.set_version(version, adapters=adapters)

    async def pause(self, *, mode: PauseMode = "wait", timeout: float | None = None) -> None:
        """Stop sampling, so that the weights may be changed; new requests wait for `resume`.

        A call while paused returns once the engine stands still as its mode asks.

        Args:
            mode: What becomes of running completions, see `PauseMode`.
            timeout: Seconds to wait for standstill.

        Raises:
            TimeoutError: Running completions took longer; the engine was resumed.
            EngineDeadError: The thread ended with an error.
        """
        future = self._request_pause(mode)
        try:
            await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except TimeoutError:
            self.resume()
            raise TimeoutError(
                f"the engine's running completions did not end within {timeout} s; "
                'raise the timeout or pause with mode="keep"',
            ) from None
        except asyncio.CancelledError:
            self.resume()
            raise

    def _request_pause(self, mode: PauseMode) -> Future[None]:
        future: Future[None] = Future()
        with self._changed:
            self._check_alive()
            self._pause = mode
            if self._thread is None:
                future.set_result(None)
            else:
                self._still.append(future)
                self._changed.notify_all()
        return future

    def resume(self) -> None:
        """Sample again after `pause`; without one it does nothing."""
        with self._changed:
            self._pause = None
            self._changed.notify_all()

    def stats(self) -> EngineStats:
        """Return a snapshot; cheap, from any thread."""
        with self._changed:
            sampler, counters = self._sampler, self._sampler.counters
            return EngineStats(
                running=sampler.running,
                waiting=sampler.waiting + len(self._inbox),
                version=sampler.version,
                paused=self._pause is not None,
                prompt_tokens=counters.prompt_tokens,
                cached_prompt_tokens=counters.cached_prompt_tokens,
                prefix_cache_tokens=sampler.cached_tokens,
                sampled_tokens=counters.sampled_tokens,
                steps=counters.steps,
                busy_seconds=self._busy_seconds,
            )

    # -- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._next_round():
                pass
        except BaseException as error:
            logger.exception("engine died")
            self._die(error)
            return
        with self._changed:
            requests = [*self._sampler.drain(), *self._inbox]
            self._inbox.clear()
            self._release()
        for request in requests:
            request.finish("abort")

    def _next_round(self) -> bool:
        """Wait for work and do one step of it; returns False when the engine stops."""
        with self._changed:
            while not self._stopping and not self._has_work():
                self._changed.wait()
            if self._stopping:
                return False
            while self._inbox:
                self._sampler.add(self._inbox.popleft())
            admit = self._pause is None
        began = monotonic()
        with self._stepping:
            self._sampler.step(admit=admit)
        self._busy_seconds += monotonic() - began
        return True

    def _has_work(self) -> bool:
        """Tell whether a step may be taken now; on standstill, says so to those who paused."""
        if self._pause == "keep" or (self._pause == "wait" and not self._sampler.running):
            self._release()
            return False
        return bool(self._inbox or self._sampler.running or self._sampler.waiting)

    def _release(self) -> None:
        waiters, self._still = self._still, []
        for future in waiters:
            _settle(future, None)

    def _die(self, cause: BaseException) -> None:
        with self._changed:
            self._death = cause
            requests = [*self._sampler.drain(), *self._inbox]
            self._inbox.clear()
            waiters, self._still = self._still, []
        for future in waiters:
            _fail(future, self._dead())
        for request in requests:
            request.on_error(self._dead())

    def _dead(self) -> EngineDeadError:
        error = EngineDeadError(f"the engine's thread ended with an error: {self._death!r}")
        error.__cause__ = self._death
        return error

    def _check_running(self) -> None:
        self._check_alive()
        if self._thread is None:
            raise EngineError("the engine is not running; call start() first")

    def _check_alive(self) -> None:
        if self._death is not None:
            raise self._dead()


def _settle(future: Future[Any], value: Any) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result(value)


def _fail(future: Future[Any], error: BaseException) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(error)


def eos_ids_of(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return every id that ends a completion, by the model's and the tokenizer's account."""
    generation = getattr(model, "generation_config", None)
    declared: Any = getattr(generation, "eos_token_id", None)
    ids: set[Any] = set(declared) if isinstance(declared, list) else {declared}
    ids.add(tokenizer.eos_token_id)
    return frozenset(int(i) for i in ids if i is not None)
