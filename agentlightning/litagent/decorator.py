"""Decorators that make an agent of a function, injecting the resources its signature names.

The function keeps working as a function: calling the agent calls it unchanged.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from agentlightning.errors import ConfigurationError
from agentlightning.litagent.base import LitAgent, is_async_callable
from agentlightning.litagent.resources import first_resource, llm_of_attempt
from agentlightning.types import LLM, PromptTemplate

if TYPE_CHECKING:
    from agentlightning.types import NamedResources, Rollout

__all__ = ["FunctionalLitAgent", "llm_rollout", "prompt_rollout", "rollout"]

T = TypeVar("T")

_INJECTED = ("llm", "prompt_template")
_MIN_PARAMETERS = 2


class FunctionalLitAgent(LitAgent[T]):
    """An agent made of one function `(task, llm | prompt_template, rollout?)`, sync or async.

    Pickles by reference, so that a spawned process finds the same agent by importing its module;
    the function must therefore be reachable by a name at the top of a module.
    """

    def __init__(self, rollout_func: Callable[..., Any], *, strip_proxy: bool = True) -> None:
        """Wrap a function.

        Args:
            rollout_func: The function; see `rollout` for its signature.
            strip_proxy: Give the function a plain `LLM` whose URL names the attempt, instead of
                the `ProxyLLM` that the algorithm published.
        """
        super().__init__()
        self._rollout_func = rollout_func
        self._strip_proxy = strip_proxy
        self._is_async = is_async_callable(rollout_func)
        self._parameters = frozenset(inspect.signature(rollout_func).parameters)
        functools.update_wrapper(cast("Callable[..., Any]", self), rollout_func)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself, without injection."""
        return self._rollout_func(*args, **kwargs)

    def is_async(self) -> bool:
        """Return whether the function is a coroutine function."""
        return self._is_async

    def requires_resources(self) -> bool:
        """Return whether the function asks for a resource."""
        return any(name in self._parameters for name in _INJECTED)

    def rollout(self, task: T, resources: NamedResources, rollout: Rollout) -> Any:
        """Call the function with its resources.

        Raises:
            RuntimeError: The function is async.
            ConfigurationError: A resource it asks for was not published.
        """
        if self._is_async:
            raise RuntimeError(
                f"{self._rollout_func!r} is async; call rollout_async() instead of rollout()."
            )
        return self._rollout_func(task, **self._arguments(resources, rollout))

    async def rollout_async(self, task: T, resources: NamedResources, rollout: Rollout) -> Any:
        """Await the function with its resources.

        Raises:
            RuntimeError: The function is not async.
            ConfigurationError: A resource it asks for was not published.
        """
        if not self._is_async:
            raise RuntimeError(
                f"{self._rollout_func!r} is not async; call rollout() instead of rollout_async()."
            )
        return await self._rollout_func(task, **self._arguments(resources, rollout))

    def _arguments(self, resources: NamedResources, rollout: Rollout) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        if "rollout" in self._parameters:
            arguments["rollout"] = rollout
        if "llm" in self._parameters:
            llm = first_resource(resources, LLM)
            arguments["llm"] = llm_of_attempt(llm, rollout) if self._strip_proxy else llm
        if "prompt_template" in self._parameters:
            arguments["prompt_template"] = first_resource(resources, PromptTemplate)
        return arguments

    def __reduce__(self) -> tuple[Any, ...]:
        module, name = self._rollout_func.__module__, self._rollout_func.__qualname__
        found = _lookup(module, name)
        if found is self:
            return _lookup, (module, name)
        if found is self._rollout_func:
            return _rebuild, (type(self), self._rollout_func, self._strip_proxy)
        raise ConfigurationError(
            f"The agent {module}.{name} cannot be sent to another process, because that name does "
            "not lead to it. Define its function at the top level of a module."
        )


def _rebuild(
    cls: type[FunctionalLitAgent[Any]], func: Callable[..., Any], strip_proxy: bool
) -> FunctionalLitAgent[Any]:
    return cls(func, strip_proxy=strip_proxy)


def _lookup(module: str, qualname: str) -> Any:
    """Return what a dotted name leads to, or None."""
    target: Any = sys.modules.get(module) or importlib.import_module(module)
    for part in qualname.split("."):
        target = getattr(target, part, None)
    return target


@overload
def llm_rollout(func: Callable[..., Any]) -> FunctionalLitAgent[Any]: ...
@overload
def llm_rollout(
    func: None = None, *, strip_proxy: bool = True
) -> Callable[[Callable[..., Any]], FunctionalLitAgent[Any]]: ...
def llm_rollout(
    func: Callable[..., Any] | None = None, *, strip_proxy: bool = True
) -> FunctionalLitAgent[Any] | Callable[[Callable[..., Any]], FunctionalLitAgent[Any]]:
    """Make an agent of `func(task, llm)` or `func(task, llm, rollout)`.

    Args:
        func: A sync or async function; `llm` receives the first published model.
        strip_proxy: Hand over a plain `LLM` whose URL names the attempt, so that any client
            pointed at it is attributed. False hands over the `ProxyLLM` itself.

    Raises:
        ConfigurationError: The signature has no `task` first, or no `llm`.
    """

    def decorate(target: Callable[..., Any]) -> FunctionalLitAgent[Any]:
        _check_signature(target, needed="llm")
        return FunctionalLitAgent(target, strip_proxy=strip_proxy)

    return decorate if func is None else decorate(func)


@overload
def prompt_rollout(func: Callable[..., Any]) -> FunctionalLitAgent[Any]: ...
@overload
def prompt_rollout(
    func: None = None,
) -> Callable[[Callable[..., Any]], FunctionalLitAgent[Any]]: ...
def prompt_rollout(
    func: Callable[..., Any] | None = None,
) -> FunctionalLitAgent[Any] | Callable[[Callable[..., Any]], FunctionalLitAgent[Any]]:
    """Make an agent of `func(task, prompt_template)` or `func(task, prompt_template, rollout)`.

    Args:
        func: A sync or async function; `prompt_template` receives the first published template.

    Raises:
        ConfigurationError: The signature has no `task` first, or no `prompt_template`.
    """

    def decorate(target: Callable[..., Any]) -> FunctionalLitAgent[Any]:
        _check_signature(target, needed="prompt_template")
        return FunctionalLitAgent(target)

    return decorate if func is None else decorate(func)


def rollout(func: Callable[..., Any]) -> FunctionalLitAgent[Any]:
    """Make an agent of a function whose signature says what it needs.

    The first parameter is named `task`; then `llm`, `prompt_template` or both; then, if wanted,
    `rollout`.

    Raises:
        NotImplementedError: The signature is none of these.

    Example:
        >>> @rollout
        ... def echo(task: str, llm: LLM) -> float:
        ...     return float(task == llm.model)
        >>> echo("m", LLM(endpoint="http://h/v1", model="m"))
        1.0
    """
    names = list(inspect.signature(func).parameters)
    if len(names) >= _MIN_PARAMETERS and names[0] == "task":
        if "llm" in names:
            return llm_rollout(func)
        if "prompt_template" in names:
            return prompt_rollout(func)
    raise NotImplementedError(
        f"@rollout cannot use the signature {_described(func)}: name the first parameter 'task' "
        "and add 'llm' or 'prompt_template'."
    )


def _check_signature(func: Callable[..., Any], *, needed: str) -> None:
    names = list(inspect.signature(func).parameters)
    if names[:1] != ["task"] or needed not in names:
        raise ConfigurationError(
            f"The signature {_described(func)} does not fit: name the first parameter 'task' and "
            f"add '{needed}'."
        )


def _described(func: Callable[..., Any]) -> str:
    return f"{getattr(func, '__name__', type(func).__name__)}{inspect.signature(func)}"
