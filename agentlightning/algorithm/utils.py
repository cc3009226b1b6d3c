"""What algorithms share: endless batches of a dataset, and components injected by decorator."""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from agentlightning.errors import ConfigurationError

if TYPE_CHECKING:
    from agentlightning.algorithm.base import Algorithm
    from agentlightning.types import Dataset

__all__ = ["batch_iter_over_dataset", "with_llm_proxy", "with_store"]

T = TypeVar("T")


def batch_iter_over_dataset(
    dataset: Dataset[T], batch_size: int, *, seed: int | None = None
) -> Iterator[Sequence[T]]:
    """Yield shuffled batches for ever.

    Each pass over the dataset is shuffled anew. A remainder carries over into the next pass, and
    no item appears twice in one batch. A batch at least as large as the dataset is the whole
    dataset, shuffled.

    Args:
        dataset: The items; must not be empty.
        batch_size: Items per batch, at least 1.
        seed: Makes the order repeatable.

    Raises:
        ConfigurationError: The dataset is empty or the batch size is below 1.
    """
    if batch_size < 1 or len(dataset) == 0:
        raise ConfigurationError(
            f"Cannot make batches of {batch_size} from {len(dataset)} items: both must be at "
            "least 1."
        )
    return _batches(dataset, batch_size, random.Random(seed))


def _batches(dataset: Dataset[T], batch_size: int, rng: random.Random) -> Iterator[Sequence[T]]:
    size = min(batch_size, len(dataset))
    queue: list[int] = []
    while True:
        batch = queue[:size]
        queue = queue[size:]
        if len(batch) < size:
            order = list(range(len(dataset)))
            rng.shuffle(order)
            # Items already in this batch wait until after it, so that none is in it twice.
            fresh = [index for index in order if index not in batch]
            repeated = [index for index in order if index in batch]
            missing = size - len(batch)
            batch, queue = batch + fresh[:missing], fresh[missing:] + repeated
        yield [dataset[index] for index in batch]


def _takes_self(function: Callable[..., Any]) -> bool:
    return next(iter(inspect.signature(function).parameters), "") == "self"


def with_store(func: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    """Give a coroutine method the algorithm's store as its first argument after `self`.

    A plain coroutine function is returned as it is: under `@algo` it gets the store by the name
    of its parameter.
    """
    if not _takes_self(func):
        return func

    @functools.wraps(func)
    async def wrapper(self: Algorithm, *args: Any, **kwargs: Any) -> T:
        return await func(self, self.get_store(), *args, **kwargs)

    _hide_parameter(wrapper, func, position=1)
    return wrapper


def with_llm_proxy(
    required: bool = False,
    auto_start: bool = True,
) -> Callable[[Callable[..., Awaitable[T]]], Callable[..., Awaitable[T]]]:
    """Give a coroutine method the algorithm's proxy (or None) as its first argument.

    Args:
        required: Fail when there is no proxy.
        auto_start: Start the proxy for the duration of the call, unless it is running already.

    Raises:
        ConfigurationError: A proxy is required and there is none.
    """

    def decorate(func: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        @functools.wraps(func)
        async def wrapper(self: Algorithm, *args: Any, **kwargs: Any) -> T:
            proxy = self.get_llm_proxy()
            if proxy is None:
                if required:
                    raise ConfigurationError(
                        "This algorithm needs a model proxy: pass llm_proxy= to the Trainer."
                    )
                return await func(self, None, *args, **kwargs)
            started_here = auto_start and not proxy.is_running()
            if started_here:
                await proxy.start()
            try:
                return await func(self, proxy, *args, **kwargs)
            finally:
                if started_here:
                    await proxy.stop()

        _hide_parameter(wrapper, func, position=1)
        return wrapper

    return decorate


def _hide_parameter(
    wrapper: Callable[..., Any], func: Callable[..., Any], *, position: int
) -> None:
    """Let the wrapper's signature leave out the parameter that it fills in."""
    signature = inspect.signature(func)
    parameters = list(signature.parameters.values())
    del parameters[position]
    cast("Any", wrapper).__signature__ = signature.replace(parameters=parameters)
