"""One model of this process, with its adapters, at an address for OpenAI's clients.

What `agl serve` runs; nothing is trained. The gateway in front brings the other wire formats, the
token and exact history for calls of attempts.
"""

from __future__ import annotations

import asyncio
from typing import Any

from agentlightning.engine.chat import HistoryMode
from agentlightning.engine.engine import Engine, EngineConfig
from agentlightning.engine.service import EngineUpstream
from agentlightning.errors import ConfigurationError
from agentlightning.gateway.models import ModelRoute
from agentlightning.gateway.server import Gateway
from agentlightning.store.memory import InMemoryLightningStore

__all__ = ["ModelServer"]


class ModelServer:
    """Serves a model by its name, and each of its adapters as `adapter` and `model:adapter`.

    A model without adapters answers to every name; otherwise a name that is none is a 404. Use it
    from one event loop.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        host: str = "127.0.0.1",
        port: int = 0,
        secret: str | None = None,
        history: HistoryMode = "exact",
        config: EngineConfig | None = None,
    ) -> None:
        """Prepare; nothing runs before `start`.

        Args:
            model: A causal language model of transformers, with or without LoRA adapters in it.
            tokenizer: Its tokenizer.
            name: Name that clients ask for.
            host: Address to listen on; one that others can reach needs a `secret`.
            port: 0 lets the system choose.
            secret: What clients must send as their API key; None asks for none.
            history: How prompts are made for calls of attempts, see `EngineUpstream`.
            config: The engine's limits.

        Raises:
            ConfigurationError: The model's architecture is not supported, the context is longer
                than the model's, an adapter has the model's name, or a public address has no
                secret.
        """
        longest = model.config.max_position_embeddings
        if config is not None and (config.max_context or 0) > longest:
            raise ConfigurationError(
                f"max_context={config.max_context} is beyond the {longest} tokens that the model "
                "was made for; give at most those"
            )
        self.name = name
        self.engine = Engine(model, tokenizer, config=config)
        self.adapters = sorted(self.engine.adapters - {"default"})
        """Models of their own beside `name`; the adapter called `default` is part of that."""
        if name in self.adapters:
            raise ConfigurationError(f"{name!r} is the name of the model and of an adapter")
        upstream = EngineUpstream(self.engine, model=name, history=history, adapters=self.adapters)
        names = [name, *self.adapters, *(f"{name}:{adapter}" for adapter in self.adapters)]
        self._gateway = Gateway(
            InMemoryLightningStore(thread_safe=True),
            models={it: ModelRoute(upstream=upstream, model=it, trained=False) for it in names},
            default_model=None if self.adapters else name,
            host=host,
            port=port,
            secret=secret,
        )

    @property
    def endpoint(self) -> str:
        """Return the base URL for OpenAI's clients, with `/v1`."""
        return self._gateway.endpoint

    async def start(self) -> None:
        """Listen and answer; idempotent.

        Raises:
            ConfigurationError: The address is taken, or is not one of this machine.
        """
        self.engine.start()
        try:
            await self._gateway.start()
        except ConfigurationError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End running calls and close; idempotent."""
        await self._gateway.stop()
        await asyncio.to_thread(self.engine.stop)
