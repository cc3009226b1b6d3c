"""Serves one proxy for `gateway.py`, under the interpreter that has it.

`python benchmarks/gateway_driver.py SUBJECT UPSTREAM_PORT` prints `{"port": …, "path": …}` once it
serves, stops when its standard input closes, and then prints what it has recorded.
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


async def wait_for_end() -> None:
    await asyncio.to_thread(sys.stdin.read)


async def attempt_path(store: Any) -> tuple[str, str]:
    rollout = await store.start_rollout(input={"task": 1})
    path = f"/rollout/{rollout.rollout_id}/attempt/{rollout.attempt.attempt_id}"
    return rollout.rollout_id, f"{path}/v1/chat/completions"


async def serve_ours(kind: str, upstream: str) -> None:
    from agentlightning.gateway.http_upstream import HttpUpstream
    from agentlightning.gateway.models import ModelRoute
    from agentlightning.gateway.server import Gateway
    from agentlightning.gateway.servers import capabilities_of
    from agentlightning.store.memory import InMemoryLightningStore
    from agentlightning.store.sqlite import SQLiteLightningStore

    with tempfile.TemporaryDirectory() as folder:
        store: Any = (
            InMemoryLightningStore(thread_safe=True)
            if kind == "memory"
            else SQLiteLightningStore(Path(folder) / "store.db")
        )
        _, path = await attempt_path(store)
        route = ModelRoute(
            upstream=HttpUpstream(upstream, capabilities=capabilities_of("vllm")), model="m"
        )
        gateway = Gateway(store, models={"m": route})
        await gateway.start()
        say({"port": int(gateway.url.rpartition(":")[2]), "path": path})
        await wait_for_end()
        say({"recorded": gateway.stats.recorded})
        await gateway.stop()
        await store.close()


async def serve_reference(upstream: str) -> None:
    """Serve 0.3.0's proxy as it is meant to be used: in a process, with a store's server."""
    import agentlightning as agl

    inner = agl.InMemoryLightningStore(thread_safe=True)
    store = agl.LightningStoreServer(inner, "127.0.0.1", free_port())
    await store.start()
    port = free_port()
    params = {"model": "hosted_vllm/m", "api_base": upstream}
    proxy = agl.LLMProxy(
        port=port, model_list=[{"model_name": "m", "litellm_params": params}], store=store
    )
    await proxy.start()
    rollout_id, path = await attempt_path(store)
    say({"port": port, "path": path})
    await wait_for_end()
    say({"recorded": len(await store.query_spans(rollout_id, name="raw_gen_ai_request"))})
    await proxy.stop()
    await store.stop()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    subject, upstream_url = sys.argv[1], f"http://127.0.0.1:{sys.argv[2]}/v1"
    if subject == "reference":
        asyncio.run(serve_reference(upstream_url))
    else:
        asyncio.run(serve_ours(subject, upstream_url))
