"""A vLLM server as a training run's sampler: versions, adapters, whole models, chats."""

import asyncio
import logging
from pathlib import Path

import orjson
import pytest

from agentlightning.engine.loading import load_model
from agentlightning.errors import ConfigurationError, RequestError, UpstreamError
from agentlightning.gateway.upstream import UpstreamRequest
from agentlightning.inference.vllm import VLLMInference
from agentlightning.inference.vllm_server import VLLMServer
from agentlightning.learning.backends.torch import LoraConfig, TorchConfig, TorchTrainBackend

CALL = '<tool_call>\n{"name": "look", "arguments": {"x": 1}}\n</tool_call>'


class Adapters:
    """Writes a directory as a train backend with adapters does."""

    name = "adapter_model.safetensors"

    def export(self, path: Path, *, merged: bool = False, adapter: str = "default") -> None:
        (path / "adapter_config.json").write_text("{}")
        (path / self.name).write_text("weights")


class Model(Adapters):
    """Writes a directory as a train backend without adapters does."""

    def export(self, path: Path, *, merged: bool = False, adapter: str = "default") -> None:
        (path / "config.json").write_text("{}")


def names(server):
    return [name.rsplit("-", 1)[1] for name in server.adapters]


async def settle(condition):
    while not condition():
        await asyncio.sleep(0.001)


async def chat(inference, *, conversation=None, **body):
    request = UpstreamRequest(
        method="POST",
        path="/v1/chat/completions",
        headers={},
        body=orjson.dumps({"model": "tiny", "logprobs": True, "return_token_ids": True, **body}),
        conversation=conversation,
    )
    response = await inference.upstream.send(request)
    try:
        return response.status, orjson.loads(await response.read())
    finally:
        await response.aclose()


async def test_it_says_what_it_is_connected_to(connect, server):
    """Weights are not shared, and the server's own are version 0 until others are published."""
    async with connect(server) as inference:
        await inference.start()
        assert not inference.shares_weights
        assert inference.processed_logprobs
        assert inference.version == inference.tokens.version == 0
        assert inference.tokens.context == 512
        assert inference.upstream.name == f"vllm:{server.url}/v1"
        generation = await inference.tokens.generate([5])
        stats = inference.stats()
        assert (stats.running, stats.waiting, stats.version, stats.paused) == (0, 0, 0, False)
        assert stats.prompt_tokens == stats.cached_prompt_tokens == 1
        assert stats.sampled_tokens == len(generation.token_ids)


async def test_before_start_it_says_so(tiny):
    """Used too early it says what to do; stopping it is always fine."""
    inference = VLLMInference(
        VLLMServer("http://127.0.0.1:9"), model=tiny.model, tokenizer=tiny.tokenizer, name="t"
    )
    with pytest.raises(ConfigurationError, match=r"call start\(\) first"):
        await inference.publish(0, Adapters())
    with pytest.raises(UpstreamError, match="127"):
        await inference.start()
    await inference.stop()


async def test_raw_log_probabilities_are_told(connect, server, caplog):
    """A server started without processed log-probabilities is used, and named in a warning."""
    server.mode = "raw_logprobs"
    with caplog.at_level(logging.WARNING, logger="agentlightning.inference.vllm"):
        async with connect(server) as inference:
            assert not inference.processed_logprobs
    assert "--logprobs-mode processed_logprobs" in caplog.text


async def test_adapters_come_under_a_name_for_each_version(connect, server, tmp_path):
    """The newest is sampled, as many as configured stay loaded, and at the end none is left."""
    async with connect(server, weights_dir=tmp_path, keep_versions=2) as inference:
        for version in range(4):
            await inference.publish(version, Adapters())
            generation = await inference.tokens.generate([5])
            assert server.completions[-1]["model"] == list(server.adapters)[-1]
            assert generation.versions[0][2] == inference.version == version
            assert names(server) == [f"v{it}" for it in range(max(0, version - 1), version + 1)]
        (root,) = tmp_path.iterdir()
        assert sorted(it.name for it in root.iterdir()) == ["v2", "v3"]
        assert set(server.adapters.values()) == {str(root / "v2"), str(root / "v3")}
    assert server.adapters == {}
    assert list(tmp_path.iterdir()) == []


async def test_several_adapters_are_sampled_by_name(connect, server):
    """Each comes under a name of its own; without a name it is the base if none is the default."""
    async with connect(server, adapters=("planner", "coder"), keep_versions=1) as inference:
        for version in (0, 1):
            await inference.publish(version, Adapters())
            asked = {}
            for adapter in ("planner", "coder", "", None):
                generation = await inference.tokens.generate([5], adapter=adapter)
                assert generation.versions[0][2] == version
                asked[adapter] = server.completions[-1]["model"]
            assert set(server.adapters) == {asked["planner"], asked["coder"]}
            assert asked["coder"].endswith(f"-coder-v{version}")
            assert asked[""] == asked[None] == "base"
        with pytest.raises(RequestError, match=r"no adapter 'x'; it has \['coder', 'planner'\]"):
            await inference.tokens.generate([5], adapter="x")
    assert server.adapters == {}


async def test_names_are_no_other_runs(connect, server):
    """A server that served an earlier run may still hold its prefixes; its names are not reused."""
    seen = set()
    for _ in range(2):
        async with connect(server) as inference:
            await inference.publish(0, Adapters())
            seen |= set(server.adapters)
    assert len(seen) == 2


async def test_a_call_ends_with_the_weights_it_began_with(connect, server):
    """While it runs its adapter stays, however many versions come; its tokens say which."""
    async with connect(server, keep_versions=1) as inference:
        await inference.publish(0, Adapters())
        server.free.clear()
        call = asyncio.create_task(inference.tokens.generate([5]))
        await settle(lambda: inference.stats().running == 1 and server.completions[2:])
        await inference.publish(1, Adapters())
        await inference.publish(2, Adapters())
        assert names(server) == ["v0", "v2"]
        server.free.set()
        assert {run[2] for run in (await call).versions} == {0}
        await inference.publish(3, Adapters())
        assert names(server) == ["v3"]


async def test_a_version_comes_once(connect, server):
    """The same version with other weights would make two things one."""
    async with connect(server) as inference:
        await inference.publish(1, Adapters())
        with pytest.raises(ConfigurationError, match="published before"):
            await inference.publish(1, Adapters())


async def test_a_refused_adapter_is_told_with_what_it_needs(connect, server):
    """The version before stays, and the error names the server's options."""

    class Damaged(Adapters):
        name = "other.bin"

    async with connect(server) as inference:
        await inference.publish(0, Adapters())
        with pytest.raises(ConfigurationError, match=r"No adapter found.*--enable-lora"):
            await inference.publish(1, Damaged())
        assert (await inference.tokens.generate([5])).versions[0][2] == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_lost_its_adapters_is_to_blame(connect, server, stream):
    """A restarted server knows no adapter; that is no mistake of the agent that asked."""
    async with connect(server, keep_versions=1) as inference:
        await inference.publish(0, Adapters())
        server.adapters.clear()
        with pytest.raises(UpstreamError, match="was it restarted"):
            await inference.tokens.generate([5], on_token=(lambda event: None) if stream else None)
        await inference.publish(1, Adapters())
        assert (await inference.tokens.generate([5])).versions[0][2] == 1


async def test_a_server_without_adapters_is_told(connect, server, tiny):
    """Where the routes are missing, the error names the variable that adds them."""
    server = type(server)(tiny.tokenizer, adapters_allowed=False)
    async with server.serving(), connect(server) as inference:
        with pytest.raises(ConfigurationError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"):
            await inference.publish(0, Adapters())


async def test_a_whole_model_is_read_between_calls(connect, server):
    """Calls that run are waited for, others wait meanwhile, and cached prefixes are dropped."""
    async with connect(server) as inference:
        server.free.clear()
        before = asyncio.create_task(inference.tokens.generate([5]))
        await settle(lambda: inference.stats().running == 1)
        publishing = asyncio.create_task(inference.publish(1, Model()))
        await settle(lambda: inference.stats().paused)
        after = asyncio.create_task(inference.tokens.generate([5]))
        await settle(lambda: inference.stats().waiting == 1)
        assert [path for path, _ in server.orders] == ["/weight_checker"]
        server.free.set()
        await publishing
        assert (await before).versions[0][2] == 0
        assert (await after).versions[0][2] == inference.version == 1
        assert not inference.stats().paused
        await inference.publish(2, Model())
    again = ["/collective_rpc", "/reset_prefix_cache"]
    assert [path for path, _ in server.orders] == ["/weight_checker", *again, *again]
    order = server.orders[1][1]
    assert order["method"] == "reload_weights"
    assert Path(order["kwargs"]["weights_path"]).name == "v1"


@pytest.mark.parametrize(
    ("change", "message"),
    [({"dev_mode": False}, "VLLM_SERVER_DEV_MODE=1"), ({"packed": True}, "lora_rank=16")],
)
async def test_a_server_that_takes_no_model_is_told(connect, server, tiny, change, message):
    """Without the routes, or with weights packed away, nothing is reloaded, and sampling goes on."""
    server = type(server)(tiny.tokenizer, **change)
    async with server.serving(), connect(server) as inference:
        with pytest.raises(ConfigurationError, match=message):
            await inference.publish(1, Model())
        assert "/collective_rpc" not in [path for path, _ in server.orders]
        assert (await inference.tokens.generate([5])).versions[0][2] == 0


async def test_paused_it_holds_calls_back(connect, server):
    """`keep` returns at once, `wait` when nothing runs; `resume` lets calls through."""
    async with connect(server) as inference:
        server.free.clear()
        running = asyncio.create_task(inference.tokens.generate([5]))
        await settle(lambda: inference.stats().running == 1)
        await inference.pause(mode="keep")
        held = asyncio.create_task(inference.tokens.generate([5]))
        await settle(lambda: inference.stats().waiting == 1)
        still = asyncio.create_task(inference.pause(mode="wait"))
        await asyncio.sleep(0)
        assert not still.done()
        server.free.set()
        await still
        await running
        assert not held.done()
        await inference.resume()
        await held


async def test_real_adapters_are_written_for_it(connect, server, tiny_path):
    """A train backend's adapters reach the server as peft's files."""
    model = load_model(tiny_path).model
    backend = TorchTrainBackend(model, config=TorchConfig(lora=LoraConfig(r=4, alpha=8)))
    async with connect(server) as inference:
        await inference.publish(0, backend)
        (path,) = server.adapters.values()
        config = orjson.loads((Path(path) / "adapter_config.json").read_bytes())
        assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_with_tools_repeats_its_tokens(connect, server, tiny, stream):
    """The chat layer above it is the engine's own: calls are parsed, the history is exact."""
    said = iter([CALL, "red"])
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    messages = [{"role": "user", "content": "who"}]
    async with connect(server) as inference:
        server.say = lambda body: next(said)
        first = await ask(inference, messages, tools, stream=stream)
        (call,) = first["message"]["tool_calls"]
        assert call["function"]["name"] == "look"
        assert orjson.loads(call["function"]["arguments"]) == {"x": 1}
        # A client that writes the arguments in another way.
        call["function"]["arguments"] = '{ "x":1 }'
        messages += [first["message"], {"role": "tool", "tool_call_id": call["id"], "content": "9"}]
        second = await ask(inference, messages, tools, stream=stream)
        assert second["message"]["content"] == "red"
        exact = [*first["prompt_token_ids"], *first["token_ids"]]
        assert second["prompt_token_ids"][: len(exact)] == exact
        assert server.completions[-1]["prompt"] == second["prompt_token_ids"]
        assert inference.upstream.history_stats().prompts == {"first": 1, "spliced": 1}
        assert len(second["logprobs"]["content"]) == len(second["token_ids"])


async def ask(inference, messages, tools, *, stream):
    body = {"messages": messages, "tools": tools, "stream": stream}
    if not stream:
        status, answer = await chat(inference, conversation="r/a", **body)
        assert status == 200
        return {"prompt_token_ids": answer["prompt_token_ids"], **answer["choices"][0]}
    request = UpstreamRequest(
        method="POST",
        path="/v1/chat/completions",
        headers={},
        body=orjson.dumps({**body, "logprobs": True, "return_token_ids": True}),
        conversation="r/a",
    )
    response = await inference.upstream.send(request)
    data = (await response.read()).split(b"\n\n")
    await response.aclose()
    assert data[-2:] == [b"data: [DONE]", b""]
    chunks = [orjson.loads(it.removeprefix(b"data: ")) for it in data[:-2]]
    whole = {"token_ids": [], "logprobs": {"content": []}, "message": {"role": "assistant"}}
    content = ""
    for chunk in chunks:
        whole |= {name: chunk[name] for name in ("prompt_token_ids",) if name in chunk}
        for choice in chunk["choices"]:
            whole["token_ids"] += choice.get("token_ids") or []
            whole["logprobs"]["content"] += (choice["logprobs"] or {}).get("content") or []
            content += choice["delta"].get("content") or ""
            for call in choice["delta"].get("tool_calls") or []:
                whole["message"].setdefault("tool_calls", []).append(call)
    whole["message"]["content"] = content or None
    return whole


async def test_its_errors_are_the_upstreams(connect, server):
    """A refusal is an answer with its status; a server that is gone is an upstream's error."""
    messages = [{"role": "user", "content": "who"}]
    async with connect(server) as inference:
        server.refusals = [(400, "bad thing")]
        status, body = await chat(inference, messages=messages)
        assert (status, body["error"]["message"]) == (400, "bad thing")
        status, body = await chat(inference, messages=messages * 300)
        assert (status, body["error"]["code"]) == (400, "context_length_exceeded")
        server.cut_after = 1
        with pytest.raises(UpstreamError):
            await chat(inference, messages=messages, stream=True)
        server.refusals = [(400, "too late")]
        request = {"messages": messages, "stream": True}
        lines = await stream_lines(inference, request)
        assert b"too late" in lines[-1]
        assert b"[DONE]" not in b"".join(lines)


async def stream_lines(inference, body):
    response = await inference.upstream.send(
        UpstreamRequest(
            method="POST", path="/v1/chat/completions", headers={}, body=orjson.dumps(body)
        )
    )
    data = await response.read()
    await response.aclose()
    return [line for line in data.split(b"\n\n") if line]
