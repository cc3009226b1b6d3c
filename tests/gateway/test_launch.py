"""Where a proxy may run, and with which store."""

from typing import Any

import pytest

from agentlightning.errors import ConfigurationError, GatewayError
from agentlightning.gateway.launch import LaunchMode, Place, check_store
from agentlightning.store.base import LightningStore, LightningStoreCapabilities
from agentlightning.store.client_server import LightningStoreClient
from agentlightning.store.memory import InMemoryLightningStore
from agentlightning.utils.server_launcher import PythonServerLauncherArgs


class Store(LightningStore):
    """Can do what it is told it can."""

    def __init__(self, *able: str) -> None:
        self.able: Any = dict.fromkeys(able, True)

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        return {**super().capabilities, **self.able}


@pytest.mark.parametrize(
    ("mode", "capability"),
    [("mp", "zero_copy"), ("thread", "thread_safe"), ("asyncio", "async_safe")],
)
def test_each_mode_needs_its_capability(mode: LaunchMode, capability: str) -> None:
    """As in 0.3.0, a store that cannot be used there is a RuntimeError, which names a way out."""
    check_store(Store(capability), mode)
    with pytest.raises(RuntimeError, match=capability):
        check_store(Store(), mode)


def test_our_stores_go_where_they_can() -> None:
    """The memory store serves any thread; only what travels serves other processes."""
    check_store(InMemoryLightningStore(), "thread")
    check_store(InMemoryLightningStore(), "asyncio")
    check_store(LightningStoreClient("http://127.0.0.1:9"), "mp")
    with pytest.raises(GatewayError, match="LightningStoreServer"):
        check_store(InMemoryLightningStore(thread_safe=True), "mp")


def test_a_place_is_said_in_one_way_only() -> None:
    """Launcher arguments and the proxy's own exclude each other."""
    args = PythonServerLauncherArgs(port=5, host="127.0.0.2", launch_mode="mp", n_workers=3)
    place = Place.read(args, None, None, 1, "mp")
    assert (place.port, place.host, place.n_workers, place.launch_mode) == (5, "127.0.0.2", 3, "mp")
    with pytest.raises(ValueError, match="launcher_args"):
        Place.read(args, 5, None, 1, "mp")


def test_several_processes_need_processes() -> None:
    """Threads and loops have one gateway."""
    with pytest.raises(ConfigurationError, match="mp"):
        Place.read(None, None, None, 2, "thread")


def test_agents_get_an_address_they_can_reach() -> None:
    """A proxy on all interfaces is reached by an address of this machine, or by the one given."""
    here = Place.read(None, 1, "127.0.0.1", 1, "mp")
    assert here.access_host is None
    everywhere = Place.read(None, 1, "0.0.0.0", 1, "mp")
    assert everywhere.access_host not in {None, "0.0.0.0"}
    named = Place.read(
        PythonServerLauncherArgs(port=1, host="0.0.0.0", access_host="proxy.example"),
        None, None, 1, "mp",
    )  # fmt: skip
    assert named.access_host == "proxy.example"
