"""A tiny model for every test of the engine, and engines that stop when their test does."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from agentlightning.engine.engine import Engine, EngineConfig
from agentlightning.engine.loading import LoadedModel, load_model
from tests.support.tiny_model import make_tiny_model

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"), words=("red", "green"))


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> LoadedModel:
    return load_model(tiny_path)


@pytest.fixture
def make_engine(tiny: LoadedModel) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def make(model: object = None, **config: object) -> Engine:
        engine = Engine(model or tiny.model, tiny.tokenizer, config=EngineConfig(**config))
        engines.append(engine)
        engine.start()
        return engine

    yield make
    for engine in engines:
        engine.stop()


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    return make_engine(seed=0)
