"""`LLMProxy`: 0.3.0's model proxy, as a face of the gateway.

It turns model lists into routes and attempts into resources. Serving, capturing and recording are
the gateway's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from agentlightning._internal.serving import format_address
from agentlightning.errors import ConfigurationError, GatewayError
from agentlightning.gateway.launch import LaunchMode, Place, check_store
from agentlightning.gateway.model_config import ModelConfig
from agentlightning.types.resources import LLM, ProxyLLM

if TYPE_CHECKING:
    from agentlightning.gateway.budget import CallBudget
    from agentlightning.gateway.models import ModelRoute
    from agentlightning.gateway.process import GatewayProcesses
    from agentlightning.gateway.server import Gateway
    from agentlightning.store.base import LightningStore
    from agentlightning.utils.server_launcher import PythonServerLauncherArgs

__all__ = ["LLMProxy", "ModelConfig", "get_active_llm_proxy", "set_active_llm_proxy"]

logger = logging.getLogger(__name__)

_BUILT_IN = frozenset({"rollout_attempt", "stream_conversion"})
_INSPECTION = "message_inspection"
_OWN_CALLBACKS = frozenset({"return_token_ids", "logprobs", "opentelemetry"})
_active: LLMProxy | None = None


class LLMProxy:
    """Serves models to agents and records every call of an attempt.

    Until it is started it holds no resources and can be pickled if its store can.

    Args:
        port: None and 0 let the system choose when it starts.
        model_list: LiteLLM entries; see `ModelConfig`. Servers that speak OpenAI's or Anthropic's
            format are called directly, others through LiteLLM (extra `litellm`).
        store: Takes the call records; may be set later, before the start.
        host: Address to listen on; loopback unless given. One that others can reach needs a
            `secret`.
        litellm_config: Only `litellm_settings.num_retries` is used; the rest is logged.
        num_retries: How often a failed call to a server is made again.
        num_workers: Processes that serve the one address; more than one needs `mp`. Sealing counts
            the calls of all.
        launch_mode: Where the gateway runs: `mp`, processes of its own; `thread`; `asyncio`, the
            event loop that starts it. The store must be able to be used there.
        launcher_args: All of where it runs in one; excludes port, host, launch_mode and
            num_workers.
        middlewares: ASGI middleware classes, the outermost first. Of 0.3.0's names,
            `message_inspection` logs what passes, and what the others did is built in.
        callbacks: `return_token_ids` and `logprobs` ask every server for these; by default those
            are asked that are known to have them. `opentelemetry` is built in.
        secret: What clients must send as their API key; `as_resource` hands it out.
        budget: What the calls of one attempt may cost in all.

    Raises:
        ConfigurationError: An argument cannot work; 0.3.0's callback classes need LiteLLM.
    """

    def __init__(  # noqa: PLR0913 - Compat 0.3.0: its arguments.
        self,
        port: int | None = None,
        model_list: Sequence[ModelConfig] | None = None,
        store: LightningStore | None = None,
        host: str | None = None,
        litellm_config: dict[str, Any] | None = None,
        num_retries: int = 0,
        num_workers: int = 1,
        launch_mode: LaunchMode = "mp",
        launcher_args: PythonServerLauncherArgs | None = None,
        middlewares: Sequence[str | Callable[[Any], Any]] | None = None,
        callbacks: Sequence[str | type] | None = None,
        *,
        secret: str | None = None,
        budget: CallBudget | None = None,
    ) -> None:
        self._place = Place.read(launcher_args, port, host, num_workers, launch_mode)
        self.model_list: list[ModelConfig] = list(model_list or [])
        self.store = store
        self._port = self._place.port
        self._retries = _retries(litellm_config or {}, num_retries)
        self._middlewares = _read_middlewares(middlewares or ())
        self._callbacks = _known_callbacks(callbacks)
        self._secret = secret
        self._budget = budget
        self._gateway: Gateway | GatewayProcesses | None = None

    @property
    def gateway(self) -> Gateway | GatewayProcesses:
        """Return the gateway behind it, for pausing and counts.

        Raises:
            GatewayError: It is not running.
        """
        if self._gateway is None:
            raise GatewayError("The model proxy is not running. Call start() first.")
        return self._gateway

    def initialize(self) -> None:
        """Check the model list; `start` does so too.

        Raises:
            ConfigurationError: An entry cannot work.
        """
        self._routes()

    def get_store(self) -> LightningStore | None:
        """Return where calls are recorded."""
        return self.store

    def set_store(self, store: LightningStore) -> None:
        """Record calls in this store; takes effect at once.

        Raises:
            GatewayError: It is running where this store cannot be used.
        """
        if self._gateway is not None and store is not self.store:
            check_store(store, self._place.launch_mode)
            self._gateway.set_store(store)
        self.store = store

    def update_model_list(self, model_list: Sequence[ModelConfig]) -> None:
        """Serve other models; takes effect at once, and calls under way keep theirs.

        Raises:
            ConfigurationError: An entry cannot work; the old list stays.
        """
        old, self.model_list = self.model_list, list(model_list)
        try:
            routes = self._routes()
        except ConfigurationError:
            self.model_list = old
            raise
        if self._gateway is not None:
            self._gateway.set_models(routes)

    async def start(self) -> None:
        """Serve; does nothing when it already does.

        Raises:
            ConfigurationError: There is no store, the model list cannot work, or the address is
                taken.
            GatewayError: The store cannot be used in this launch mode, or a process did not start.
        """
        if self.is_running():
            return
        if self.store is None:
            raise ConfigurationError("The model proxy has no store. Call set_store() first.")
        check_store(self.store, self._place.launch_mode)
        # A gateway whose process died is replaced, at the same address.
        await self.stop()
        gateway = self._make_gateway(self.store)
        if self._place.launch_mode == "asyncio":
            await cast("Gateway", gateway).start_here()
        else:
            await gateway.start()
        self._gateway = gateway
        self._port = int(gateway.url.rpartition(":")[2])
        set_active_llm_proxy(self)

    async def stop(self) -> None:
        """Let calls in flight end and close; does nothing when it is not running."""
        gateway, self._gateway = self._gateway, None
        if gateway is not None:
            await gateway.stop()
        if _active is self:
            set_active_llm_proxy(None)

    async def restart(self, *, _port: int | None = None) -> None:
        """Stop and start again, on another port if one is given."""
        await self.stop()
        if _port is not None:
            self._port = _port
        await self.start()

    def is_running(self) -> bool:
        """Return whether it serves."""
        return self._gateway is not None and self._gateway.is_running

    def as_resource(
        self,
        rollout_id: str | None = None,
        attempt_id: str | None = None,
        model: str | None = None,
        sampling_parameters: dict[str, Any] | None = None,
    ) -> LLM:
        """Return what agents need to call a model: a `ProxyLLM`, or for one attempt an `LLM`.

        Args:
            rollout_id: With `attempt_id`, the attempt that all calls will belong to.
            attempt_id: Both ids or neither.
            model: A name of the model list; may be left out when there is only one.
            sampling_parameters: For the agent to use.

        Raises:
            ConfigurationError: One id is missing, or the model is not clear.
            GatewayError: It is not running, so that it has no address.
        """
        llm = ProxyLLM(
            endpoint=f"{self._access_url()}/v1",
            model=model or self._only_model(),
            api_key=self._secret,
            sampling_parameters=sampling_parameters or {},
        )
        if rollout_id is None and attempt_id is None:
            return llm
        return LLM(
            endpoint=llm.get_base_url(rollout_id, attempt_id),
            model=llm.model,
            api_key=llm.api_key,
            sampling_parameters=llm.sampling_parameters,
        )

    def _access_url(self) -> str:
        """Return the address to give to agents, which may run on other machines."""
        url = self.gateway.url
        host = self._place.access_host
        return url if host is None else format_address(host, self._port)

    def _make_gateway(self, store: LightningStore) -> Gateway | GatewayProcesses:
        shared: dict[str, Any] = {
            "models": self._routes(),
            "host": self._place.host,
            "secret": self._secret,
            "middlewares": self._middlewares,
            "budget": self._budget,
        }
        if self._place.launch_mode == "mp":
            from agentlightning.gateway.process import GatewayProcesses, GatewaySpec

            spec = GatewaySpec(store=store, **shared)
            return GatewayProcesses(spec, port=self._port, n_workers=self._place.n_workers)
        from agentlightning.gateway.server import Gateway

        return Gateway(store, port=self._port, **shared)

    def _routes(self) -> dict[str, ModelRoute]:
        from agentlightning.gateway.model_list import routes_from_model_list

        return routes_from_model_list(
            self.model_list, retries=self._retries, callbacks=self._callbacks
        )

    def _only_model(self) -> str:
        names = sorted({entry["model_name"] for entry in self.model_list})
        if len(names) != 1:
            raise ConfigurationError(f"Say which model: the model list has {names}.")
        return names[0]


def get_active_llm_proxy() -> LLMProxy:
    """Return the proxy that was started last in this process and not stopped since, or was set.

    Compat 0.3.0. Any number of proxies may run; only this look-up knows one.

    Raises:
        ConfigurationError: There is none.
    """
    if _active is None:
        raise ConfigurationError("No model proxy is active. Start one, or set it.")
    return _active


def set_active_llm_proxy(proxy: LLMProxy | None) -> None:
    """Set what `get_active_llm_proxy` returns; None leaves it without one."""
    global _active  # noqa: PLW0603 - Compat 0.3.0: one for each process is what it means.
    _active = proxy


def _retries(litellm_config: dict[str, Any], num_retries: int) -> int:
    settings = dict(litellm_config.get("litellm_settings") or {})
    retries = int(settings.pop("num_retries", num_retries))
    unused = sorted({*settings, *litellm_config} - {"litellm_settings"})
    if unused:
        logger.warning("litellm settings are not used", extra={"settings": unused})
    return retries


def _read_middlewares(
    middlewares: Sequence[str | Callable[[Any], Any]],
) -> list[Callable[[Any], Any]]:
    classes: list[Callable[[Any], Any]] = []
    for middleware in middlewares:
        if not isinstance(middleware, str):
            classes.append(middleware)
        elif middleware == _INSPECTION:
            from agentlightning.gateway.inspection import MessageInspectionMiddleware

            classes.append(MessageInspectionMiddleware)
        elif middleware not in _BUILT_IN:
            raise ConfigurationError(
                f"Unknown middlewares {middleware!r}. Use a class, or one of "
                f"{sorted({*_BUILT_IN, _INSPECTION})}."
            )
    return classes


def _known_callbacks(callbacks: Sequence[str | type] | None) -> list[str] | None:
    if callbacks is None:
        return None
    unknown = [callback for callback in callbacks if callback not in _OWN_CALLBACKS]
    if unknown:
        raise ConfigurationError(
            f"Callbacks {unknown} need LiteLLM, which is not in the gateway's path. Use "
            f"{sorted(_OWN_CALLBACKS)}, or ASGI middlewares."
        )
    return [str(callback) for callback in callbacks]
