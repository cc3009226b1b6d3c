"""Inference by a vLLM server elsewhere: ids out, ids back, new weights while it runs.

Adapters are loaded under a name for each version, so a call goes on with the weights it began with,
and what sampled a token is never a guess. Whole models are read again from a directory, between
calls. Both travel as files that the server can see.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from agentlightning.engine.adapters import BASE, DEFAULT_ADAPTER
from agentlightning.engine.chat import HistoryMode
from agentlightning.engine.engine import PauseMode, eos_ids_of
from agentlightning.engine.service import EngineUpstream
from agentlightning.errors import ConfigurationError, GatewayError, RequestError, UpstreamError
from agentlightning.inference.base import InferenceStats, WeightSource
from agentlightning.inference.vllm_probe import ServerFacts, check_tokenizer, probe_server
from agentlightning.inference.vllm_server import VLLMServer
from agentlightning.inference.vllm_tokens import ServedModel, VLLMTokens

__all__ = ["VLLMInference"]

logger = logging.getLogger(__name__)

_GUIDE = "docs/guides/vllm.md has the whole command"
_NEEDS_ADAPTERS = (
    "--enable-lora, --max-lora-rank at least the adapters' own, and "
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment"
)
_NEEDS_MODELS = (
    "VLLM_SERVER_DEV_MODE=1 in its environment, or train adapters instead (lora_rank=16), which "
    "vLLM takes without it"
)
_NOTHING = hashlib.sha256().hexdigest()
"""Checksum of a tensor that was freed."""


class VLLMInference:
    """Implements `InferenceBackend` with a vLLM server that somebody else started."""

    shares_weights = False

    def __init__(
        self,
        server: VLLMServer,
        *,
        model: Any,
        tokenizer: Any,
        name: str,
        history: HistoryMode = "exact",
        weights_dir: Path | None = None,
        keep_versions: int = 2,
        adapters: Sequence[str] = (DEFAULT_ADAPTER,),
    ) -> None:
        """Prepare; nothing is sent before `start`.

        Args:
            server: Where it is.
            model: The module that is trained, of transformers' kind; only its configuration is
                read.
            tokenizer: Its tokenizer.
            name: Name that agents call the model by.
            history: How prompts with earlier answers are made.
            weights_dir: Directory that the server sees under the same path, for new weights; None
                makes a temporary one, which only a server on this machine sees.
            keep_versions: Versions of each adapter that stay loaded. The server holds all of them
                if its `--max-loras` is as many, and reads them again from their files if not.
            adapters: What is published of a source that trains adapters.
        """
        self._server = server
        self._tokens = VLLMTokens(
            self._server,
            tokenizer,
            eos_ids=eos_ids_of(model, tokenizer),
            vocabulary=model.config.vocab_size,
        )
        self._upstream = EngineUpstream(
            self._tokens,
            model=name,
            history=history,
            name=f"vllm:{self._server.name}",
            on_close=self._server.aclose,
        )
        # Unlike any other run's, whose cached prefixes the server may still hold.
        self._stem = f"{name}-{uuid.uuid4().hex[:8]}"
        self._given_dir = weights_dir
        self._dir: Path | None = None
        self._keep = keep_versions
        self._names = tuple(adapters)
        self._facts: ServerFacts | None = None
        self._adapters: list[ServedModel] = []
        """Loaded by us, oldest first."""
        self._takes_models = False

    @property
    def processed_logprobs(self) -> bool:
        return self._ready().processed_logprobs

    @property
    def tokens(self) -> VLLMTokens:
        return self._tokens

    @property
    def upstream(self) -> EngineUpstream:
        return self._upstream

    @property
    def version(self) -> int:
        return self._tokens.version

    async def start(self) -> None:
        """Connect, and check that the server speaks of the same tokens.

        Raises:
            ConfigurationError: It has another tokenizer, or does not tell ids.
            UpstreamError: It failed or cannot be reached.
        """
        if self._facts is not None:
            return
        tokenizer = self._tokens.tokenizer
        try:
            facts = await probe_server(
                self._server, tokenizer("Hello", add_special_tokens=False)["input_ids"]
            )
            await check_tokenizer(self._server, facts.model, tokenizer)
        except RequestError as error:
            raise ConfigurationError(
                f"{self._server.name} refuses to be asked: {error} ({_GUIDE})"
            ) from error
        if not facts.processed_logprobs:
            logger.warning(
                "the server's log-probabilities leave temperature out; restart it with"
                " --logprobs-mode processed_logprobs, or sample at temperature 1",
                extra={"server": self._server.name},
            )
        self._dir = await asyncio.to_thread(self._make_dir)
        self._tokens.ready({BASE: ServedModel(facts.model, 0)}, version=0, context=facts.context)
        self._facts = facts
        logger.info(
            "model server connected",
            extra={"server": self._server.name, "served": facts.model, "context": facts.context},
        )

    async def publish(self, version: int, weights: WeightSource) -> None:
        """Load `weights` into the server; see `InferenceBackend.publish`.

        Adapters come beside the ones before, and calls that run are not disturbed. A whole model
        replaces the one before: calls that run are waited for, others wait meanwhile.
        """
        self._ready()
        written = [
            await asyncio.to_thread(self._write, version, weights, name) for name in self._names
        ]
        if all((path / "adapter_config.json").exists() for path in written):
            await self._publish_adapters(version, written)
        else:
            await self._publish_model(version, written[0])
        logger.info("weights published", extra={"server": self._server.name, "version": version})

    async def pause(self, *, mode: PauseMode = "wait") -> None:
        """Let no new call begin; under `keep`, those that run end with the weights they have."""
        gate = self._tokens.gate
        gate.close()
        if mode == "wait":
            try:
                await gate.empty()
            except asyncio.CancelledError:
                gate.open()
                raise

    async def resume(self) -> None:
        self._tokens.gate.open()

    async def stop(self) -> None:
        """Unload our adapters, remove our files, close connections; the server stays."""
        self._tokens.gate.open()
        adapters, self._adapters = self._adapters, []
        for served in adapters:
            try:
                await self._unload(served)
            except GatewayError as error:
                # The server may be gone, and then there is nothing to unload.
                logger.warning(
                    "adapter left at the server",
                    extra={"adapter": served.name, "reason": str(error)},
                )
        directory, self._dir, self._facts = self._dir, None, None
        if directory is not None:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        await self._server.aclose()

    def stats(self) -> InferenceStats:
        gate, counts = self._tokens.gate, self._tokens.counts
        return InferenceStats(
            running=gate.inside,
            waiting=gate.outside,
            version=self.version,
            paused=gate.closed,
            prompt_tokens=counts.prompt,
            cached_prompt_tokens=counts.cached_prompt,
            sampled_tokens=counts.sampled,
        )

    # -- adapters -------------------------------------------------------------------------------

    async def _publish_adapters(self, version: int, written: Sequence[Path]) -> None:
        if any(it.version == version for it in self._adapters):
            raise ConfigurationError(f"version {version} was published before")
        served = {BASE: ServedModel(self._ready().model, version)}
        for adapter, path in zip(self._names, written, strict=True):
            served[adapter] = ServedModel(f"{self._stem}-{path.name}", version)
            await self._order(
                "/v1/load_lora_adapter",
                {"lora_name": served[adapter].name, "lora_path": str(path)},
                needs=_NEEDS_ADAPTERS,
            )
            self._adapters.append(served[adapter])
        self._tokens.ready(served, version=version)
        for old in self._adapters[: -self._keep * len(self._names)]:
            if not old.running:
                self._adapters.remove(old)
                await self._unload(old)

    async def _unload(self, served: ServedModel) -> None:
        try:
            await self._server.call("POST", "/v1/unload_lora_adapter", {"lora_name": served.name})
        except RequestError as error:
            # A server that was restarted has unloaded everything already.
            if error.status != HTTPStatus.NOT_FOUND:
                raise
        if self._dir is not None:
            old = self._dir / served.name.removeprefix(f"{self._stem}-")
            await asyncio.to_thread(shutil.rmtree, old, ignore_errors=True)

    # -- whole models ---------------------------------------------------------------------------

    async def _publish_model(self, version: int, path: Path) -> None:
        await self._check_takes_models()
        gate = self._tokens.gate
        was_closed = gate.closed
        await self.pause(mode="wait")
        try:
            orders = {"method": "reload_weights", "kwargs": {"weights_path": str(path)}}
            await self._order("/collective_rpc", orders, needs=_NEEDS_MODELS)
            await self._order("/reset_prefix_cache", {}, needs=_NEEDS_MODELS)
            served = ServedModel(self._ready().model, version)
            self._tokens.ready({BASE: served}, version=version)
        finally:
            if not was_closed:
                gate.open()
        await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    async def _check_takes_models(self) -> None:
        """Refuse a server that would go on with parts of the old weights without saying so."""
        if self._takes_models:
            return
        asked = {"action": "checksum"}
        told = await self._order("/weight_checker", asked, needs=_NEEDS_MODELS)
        packed = [name for name, checksum in told["checksums"].items() if checksum == _NOTHING]
        if packed:
            raise ConfigurationError(
                f"{self._server.name} keeps {len(packed)} of its tensors in a form that it does "
                "not write anew, as vLLM's CPU build does. Train adapters instead: lora_rank=16."
            )
        self._takes_models = True

    async def _order(self, path: str, body: dict[str, Any], *, needs: str) -> Any:
        """Give an order that only a server started for training takes."""
        try:
            return await self._server.call("POST", path, body)
        except (RequestError, UpstreamError) as error:
            if isinstance(error, UpstreamError) and error.__cause__ is not None:
                raise
            raise ConfigurationError(
                f"{self._server.name} did not take new weights by {path}, but said: {error} Start it with "
                f"{needs}. It must see {self._dir} under this path. {_GUIDE}."
            ) from error

    # -- files ----------------------------------------------------------------------------------

    def _make_dir(self) -> Path:
        if self._given_dir is None:
            return Path(tempfile.mkdtemp(prefix="agl-weights-"))
        path = self._given_dir / self._stem
        path.mkdir(parents=True, exist_ok=True)
        return path.resolve()

    def _write(self, version: int, weights: WeightSource, adapter: str) -> Path:
        """Write weights into a directory that appears once it is whole."""
        assert self._dir is not None
        name = f"v{version}" if adapter == DEFAULT_ADAPTER else f"{adapter}-v{version}"
        path, partial = self._dir / name, self._dir / f".{name}.partial"
        for left in (path, partial):
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir()
        weights.export(partial, adapter=adapter)
        partial.rename(path)
        return path

    def _ready(self) -> ServerFacts:
        if self._facts is None:
            raise ConfigurationError(
                f"{self._server.name} is not connected yet; call start() first"
            )
        return self._facts
