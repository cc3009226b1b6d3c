"""The names that agents call models by, and what stands behind each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentlightning.errors import ConfigurationError, RequestError
from agentlightning.gateway.price import TokenPrice
from agentlightning.gateway.upstream import Upstream

__all__ = ["ModelRoute", "ModelTable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRoute:
    """Where calls to one model go, and what the gateway may change about them."""

    upstream: Upstream
    model: str
    """The name that the upstream knows it by."""
    trained: bool = True
    """Its tokens are learnt from: ids and log-probabilities are asked for and recorded. Calls
    to other models reach the upstream as they came, but for the name."""
    role: str | None = None
    """Which agent of a rollout calls it by this name, where the client does not say: a name for
    each agent is how frameworks that know only model names tell their agents apart."""
    price: TokenPrice | None = None
    """What its tokens cost, for budgets of money; None for nothing."""
    sampling_overrides: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Request members that replace the client's on a trained model; None takes one out."""
    sampling_defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Request members for a trained model where the client sends none of that meaning."""


class ModelTable:
    """Routes by alias. Reads need no lock: a change replaces the whole mapping."""

    def __init__(self, routes: Mapping[str, ModelRoute], default: str | None = None) -> None:
        if default is not None and default not in routes:
            raise ConfigurationError(
                f"default_model {default!r} is not among the models {sorted(routes)}. "
                "Name one of them."
            )
        self._routes: Mapping[str, ModelRoute] = dict(routes)
        self._default = default

    @property
    def routes(self) -> Mapping[str, ModelRoute]:
        """Return the routes by alias, in the order they were set."""
        return self._routes

    def put(self, alias: str, route: ModelRoute) -> None:
        """Add a route or replace one; calls under way keep the old one."""
        self._routes = {**self._routes, alias: route}

    def replace(self, routes: Mapping[str, ModelRoute], default: str | None = None) -> None:
        """Put other routes in the place of all."""
        self._routes = dict(routes)
        self._default = default

    def find(self, name: str | None) -> ModelRoute:
        """Return the route of a name; unknown names, and None, get the default's.

        Raises:
            RequestError: There is none (404, as OpenAI answers).
        """
        routes = self._routes
        route = routes.get(name) if name else None
        if route is None and self._default is not None:
            route = routes.get(self._default)
        if route is None and not name and len(routes) == 1:
            route = next(iter(routes.values()))
        if route is None:
            raise RequestError(
                f"The model {name!r} does not exist. Use one of {sorted(routes)}."
                if name
                else f"The request names no model. Use one of {sorted(routes)}.",
                status=404,
                error_code="model_not_found",
                param="model",
            )
        return route
