"""`@algo`: a plain function as an algorithm."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from agentlightning.algorithm.base import Algorithm

if TYPE_CHECKING:
    from agentlightning.types import Dataset

__all__ = ["FunctionalAlgorithm", "algo"]

_INJECTED_DATASETS = ("train_dataset", "val_dataset")


class FunctionalAlgorithm(Algorithm):
    """An algorithm made of one function.

    The function gets, by parameter name, whatever it declares of `store`, `adapter`,
    `llm_proxy`, `initial_resources`, `train_dataset` and `val_dataset`. Calling the object calls
    the function itself.
    """

    def __init__(self, algorithm_func: Callable[..., Any]) -> None:
        """Wrap `algorithm_func`, which may be sync or async."""
        self._function = algorithm_func
        self._parameters = frozenset(inspect.signature(algorithm_func).parameters)
        functools.update_wrapper(self, algorithm_func)

    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self._function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def run(
        self,
        train_dataset: Dataset[Any] | None = None,
        val_dataset: Dataset[Any] | None = None,
    ) -> Awaitable[None] | None:
        """Call the function with what it declares.

        Raises:
            TypeError: A dataset was given that the function does not declare.
            ConfigurationError: A declared component has not been set.
        """
        arguments = self._components()
        datasets = (train_dataset, val_dataset)
        for name, dataset in zip(_INJECTED_DATASETS, datasets, strict=True):
            if name in self._parameters:
                arguments[name] = dataset
            elif dataset is not None:
                raise TypeError(
                    f"A {name} was given, but {self._function.__name__}() has no parameter "
                    f"named {name}: add it, or do not pass the dataset."
                )
        return self._function(**arguments)

    def _components(self) -> dict[str, Any]:
        readers: dict[str, Callable[[], Any]] = {
            "store": self.get_store,
            "adapter": self.get_adapter,
            "llm_proxy": self.get_llm_proxy,
            "initial_resources": self.get_initial_resources,
        }
        return {name: read() for name, read in readers.items() if name in self._parameters}


def algo(func: Callable[..., Any]) -> FunctionalAlgorithm:
    """Turn a function into an algorithm; see `FunctionalAlgorithm` for what it may declare.

    Example:
        >>> @algo
        ... async def count(store, train_dataset):
        ...     await store.enqueue_rollout(train_dataset[0])
        >>> count.is_async()
        True
    """
    return FunctionalAlgorithm(func)
