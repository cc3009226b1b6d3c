"""Where a proxy's gateway runs, and whether a store can be used there."""

from __future__ import annotations

from dataclasses import dataclass

from agentlightning._internal.serving import ANY_HOSTS, LOOPBACK_HOST, outbound_address
from agentlightning.errors import ConfigurationError, GatewayError
from agentlightning.store.base import LightningStore
from agentlightning.utils.server_launcher import LaunchMode, PythonServerLauncherArgs

__all__ = ["LaunchMode", "Place", "check_store"]

_STORE_NEEDS = {
    "mp": ("zero_copy", "cross processes", "a LightningStoreServer, a LightningStoreClient"),
    "thread": ("thread_safe", "be used by several threads", "LightningStoreThreaded(store)"),
    "asyncio": ("async_safe", "serve several tasks", "LightningStoreThreaded(store)"),
}
"""For each launch mode the capability of stores that it needs, in words, and what has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Address, launch mode and number of processes."""

    port: int
    host: str
    access_host: str | None
    """What agents reach it by, where that is another one than they would guess."""
    launch_mode: LaunchMode
    n_workers: int

    @classmethod
    def read(
        cls,
        args: PythonServerLauncherArgs | None,
        port: int | None,
        host: str | None,
        num_workers: int,
        launch_mode: LaunchMode,
    ) -> Place:
        """Return the place that `LLMProxy`'s arguments name.

        Raises:
            ConfigurationError: They contradict each other, or cannot work.
        """
        if args is not None and (port, host, num_workers, launch_mode) != (None, None, 1, "mp"):
            raise ConfigurationError(
                "launcher_args says where to serve. Leave out port, host, launch_mode and "
                "num_workers, or leave out launcher_args."
            )
        args = args or PythonServerLauncherArgs(
            port=port, host=host, n_workers=num_workers, launch_mode=launch_mode
        )
        access_host = args.access_host
        if access_host is None and args.host in ANY_HOSTS:
            access_host = outbound_address()
        return cls(
            port=args.port or 0,
            host=args.host or LOOPBACK_HOST,
            access_host=access_host,
            launch_mode=args.launch_mode,
            n_workers=args.n_workers,
        )


def check_store(store: LightningStore, launch_mode: LaunchMode) -> None:
    """Check that a store can be used where the gateway runs.

    Raises:
        GatewayError: It cannot, as 0.3.0's RuntimeError said.
    """
    capability, ability, remedy = _STORE_NEEDS[launch_mode]
    # Some stores may be shared between threads whether or not they were told to say so.
    agnostic = launch_mode != "mp" and getattr(store, "is_loop_agnostic", False)
    if not store.capabilities.get(capability) and not agnostic:
        other = ", or launch_mode='thread'" if launch_mode == "mp" else ""
        raise GatewayError(
            f"launch_mode={launch_mode!r} needs a store that can {ability} ({capability}), which "
            f"{type(store).__name__} cannot. Use {remedy}{other}."
        )
