"""A store, and a model that every room below may train."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from agentlightning.store.memory import InMemoryLightningStore
from tests.support.tiny_model import make_tiny_model


@pytest.fixture
async def store() -> AsyncGenerator[InMemoryLightningStore]:
    """An empty store."""
    store = InMemoryLightningStore(thread_safe=True)
    yield store
    await store.close()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny model that says anything."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny"), hidden=32)


@pytest.fixture
def fits(tiny_model: Path, tmp_path: Path, store: InMemoryLightningStore):
    """Fits of the tiny model in one run directory; see `fits.Fits`."""
    from tests.algorithm.fits import Fits

    return Fits(tiny_model, tmp_path / "run", store)
