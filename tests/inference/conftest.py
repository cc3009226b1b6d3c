"""A tiny model, a server that behaves as vLLM does, and what samples through it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from agentlightning.engine.loading import LoadedModel, load_model
from agentlightning.inference.vllm import VLLMInference
from agentlightning.inference.vllm_server import VLLMServer
from tests.support.tiny_model import make_tiny_model
from tests.support.vllm_like_server import VLLMLikeServer

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"), words=("red", "green", "blue"))


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> LoadedModel:
    return load_model(tiny_path)


@pytest.fixture
async def server(tiny: LoadedModel) -> AsyncIterator[VLLMLikeServer]:
    async with VLLMLikeServer(tiny.tokenizer).serving() as server:
        yield server


@pytest.fixture
def connect(tiny: LoadedModel) -> Any:
    @asynccontextmanager
    async def connect(server: VLLMLikeServer, **options: Any) -> AsyncIterator[VLLMInference]:
        inference = VLLMInference(
            VLLMServer(server.url),
            model=tiny.model,
            tokenizer=tiny.tokenizer,
            name="tiny",
            **options,
        )
        try:
            await inference.start()
            yield inference
        finally:
            await inference.stop()

    return connect
