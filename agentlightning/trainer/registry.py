"""Short names of components, one registry per kind, each name mapped to an import path."""

from collections.abc import Mapping

__all__ = [
    "AdapterRegistry",
    "AlgorithmRegistry",
    "ExecutionStrategyRegistry",
    "RunnerRegistry",
    "StoreRegistry",
    "TracerRegistry",
]

ExecutionStrategyRegistry: Mapping[str, str] = {
    "shm": "agentlightning.execution.shared_memory.SharedMemoryExecutionStrategy",
    "cs": "agentlightning.execution.client_server.ClientServerExecutionStrategy",
    "SharedMemoryExecutionStrategy": (
        "agentlightning.execution.shared_memory.SharedMemoryExecutionStrategy"
    ),
    "ClientServerExecutionStrategy": (
        "agentlightning.execution.client_server.ClientServerExecutionStrategy"
    ),
}

AlgorithmRegistry: Mapping[str, str] = {
    "Baseline": "agentlightning.algorithm.fast.Baseline",
    "GRPO": "agentlightning.algorithm.grpo.GRPO",
    "PPO": "agentlightning.algorithm.ppo.PPO",
    "RLOO": "agentlightning.algorithm.rloo.RLOO",
    "SFT": "agentlightning.algorithm.sft.SFT",
    "DPO": "agentlightning.algorithm.dpo.DPO",
    "KTO": "agentlightning.algorithm.kto.KTO",
    "ReinforcePlusPlus": "agentlightning.algorithm.reinforce_plus_plus.ReinforcePlusPlus",
}

TracerRegistry: Mapping[str, str] = {
    "OtelTracer": "agentlightning.tracer.otel.OtelTracer",
    "AgentOpsTracer": "agentlightning.tracer.agentops.AgentOpsTracer",
    "WeaveTracer": "agentlightning.tracer.weave.WeaveTracer",
    "DummyTracer": "agentlightning.tracer.dummy.DummyTracer",
}

AdapterRegistry: Mapping[str, str] = {
    "TracerTraceToTriplet": "agentlightning.adapter.triplet.TracerTraceToTriplet",
    "LlmProxyTraceToTriplet": "agentlightning.adapter.proxy_triplet.LlmProxyTraceToTriplet",
    "TraceToMessages": "agentlightning.adapter.messages.TraceToMessages",
}

StoreRegistry: Mapping[str, str] = {
    "InMemoryLightningStore": "agentlightning.store.memory.InMemoryLightningStore",
    "SQLiteStore": "agentlightning.store.sqlite.SQLiteLightningStore",
    "SQLiteLightningStore": "agentlightning.store.sqlite.SQLiteLightningStore",
    "PostgresLightningStore": "agentlightning.store.postgres.PostgresLightningStore",
    "MongoLightningStore": "agentlightning.store.mongo.MongoLightningStore",
    "RedisLightningStore": "agentlightning.store.redis.RedisLightningStore",
    "LightningStoreClient": "agentlightning.store.client_server.LightningStoreClient",
}

RunnerRegistry: Mapping[str, str] = {
    "LitAgentRunner": "agentlightning.runner.agent.LitAgentRunner",
}
