"""The policy-gradient learner on a real policy; several agents, each with an adapter of its own."""

import aiohttp
import pytest
import torch
from safetensors.torch import load_file

import agentlightning as agl
from agentlightning.adapter.calls import find_calls
from agentlightning.algorithm.grpo import GRPOConfig
from agentlightning.algorithm.policy.gradient import PolicyGradient
from agentlightning.algorithm.policy.policy import Policy, mean_metrics
from agentlightning.errors import ConfigurationError
from agentlightning.litagent import LitAgent
from tests.algorithm.policy.outcomes import outcome

pytestmark = pytest.mark.usefixtures("one_thread")

ADAPTERS = {"planning": "^planner$", "coding": "coder"}


@pytest.mark.parametrize(("rewards", "version"), [((1.0, 0.0), 1), ((1.0, 1.0), 0)])
async def test_a_step_is_taken_only_where_something_can_be_learnt(
    store, tiny_model, rewards, version
):
    """Mixed rewards change the weights and their version; equal ones are told, and change none."""
    config = GRPOConfig(model=str(tiny_model), model_alias="tiny", lora_rank=None)
    policy = Policy(config, store)
    await policy.load(None)
    try:
        outcomes = [outcome(str(n), reward) for n, reward in enumerate(rewards)]
        metrics = await PolicyGradient(config, policy).learn(outcomes, step=0)
        assert policy.version == version
    finally:
        await policy.stop()
    assert ("training/n_updates" in metrics) == bool(version)
    assert metrics["training/n_trained_tokens"] == 4 * version


class Team(LitAgent):
    """A planner and a coder; each is graded by the letters of what it says itself."""

    def __init__(self, graded=("planner", "senior-coder")):
        super().__init__()
        self.graded = graded

    async def rollout_async(self, task, resources, rollout):
        grades = {role: await self.ask(role, task, resources, rollout) for role in ROLES}
        agl.emit_reward(
            {role: grades[role] if role in self.graded else 0.5 for role in ROLES[:2]},
            primary_key="planner",
        )

    async def ask(self, role, task, resources, rollout):
        llm = resources["main_llm"]
        url = llm.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id)
        body = {"model": llm.model, "messages": [{"role": "user", "content": task}]}
        async with (
            aiohttp.ClientSession(headers={"x-agl-role": role}) as session,
            session.post(f"{url}/chat/completions", json=body) as response,
        ):
            response.raise_for_status()
            reply = await response.json()
        answer = reply["choices"][0]["message"]["content"]
        return sum(map(ord, answer or "")) % 16 / 16


ROLES = ("planner", "senior-coder", "judge")


def parts(checkpoint):
    """Return the tensors of a checkpoint by adapter."""
    (file,) = checkpoint.glob("*.safetensors")
    found = {name: {} for name in ADAPTERS}
    for name, tensor in load_file(file).items():
        (adapter,) = [each for each in ADAPTERS if f".{each}." in name]
        found[adapter][name] = tensor
    return found


def fit(fits, **settings):
    fields = {"lora_rank": 4, "adapters": ADAPTERS, "credit": "agent", "learning_rate": 1e-2}
    return fits.fit(**fields | settings)


async def test_each_agent_learns_from_its_own_rewards_by_its_own_adapter(fits):
    """Both adapters change, the base and what others said do not, and each has its metrics."""
    fits.agent = Team()
    result = await fit(fits, steps=3, max_tokens=2)
    first, last = (
        parts(result.checkpoint.with_name(name)) for name in ("step-000002", "step-000003")
    )
    for name in ADAPTERS:
        assert any(not torch.equal(first[name][key], last[name][key]) for key in first[name])
    metrics = fits.watcher.reports[-1].metrics
    assert metrics["training/version"] == 3
    sampled = metrics["training/planning/n_trained_tokens"]
    sampled += metrics["training/coding/n_trained_tokens"]
    assert metrics["training/n_trained_tokens"] == sampled > 0
    assert {"training/planning/loss", "training/coding/loss", "training/loss"} <= metrics.keys()
    assert metrics["training/planning/staleness_max"] == 0


async def test_agents_are_sampled_by_their_own_adapters(fits):
    """What the engine says it sampled is what the trainer of that adapter finds, to rounding."""
    fits.agent = Team()
    await fit(fits, steps=1)
    await fit(fits, steps=2)  # Resumed, with adapters that have learnt something.
    metrics = fits.watcher.reports[0].metrics
    assert metrics["training/version"] == 2
    # An adapter whose rewards happened to be all alike was not trained, and so not checked.
    checked = [metrics.get(f"training/{name}/agreement_max") for name in ADAPTERS]
    assert any(each is not None for each in checked)
    assert max(each for each in checked if each is not None) < 1e-4
    calls = [
        call
        for rollout in await fits.rollouts()
        for call in find_calls(await fits.store.query_spans(rollout.rollout_id))
    ]
    assert {call.role for call in calls} == set(ROLES)


async def test_an_agent_whose_rewards_are_all_alike_leaves_its_adapter_as_it_is(fits):
    """Only the planner's rewards differ: the coder's adapter stays, bit by bit."""
    fits.agent = Team(graded=("planner",))
    one = await fit(fits, steps=1)
    before = parts(one.checkpoint)
    two = await fit(fits, steps=2)
    after = parts(two.checkpoint)
    assert all(torch.equal(before["coding"][key], after["coding"][key]) for key in before["coding"])
    assert any(
        not torch.equal(before["planning"][key], after["planning"][key])
        for key in before["planning"]
    )
    assert fits.watcher.reports[-1].metrics["training/coding/n_trained_tokens"] == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapters": {}}, "names none"),
        ({"adapters": {"a.b": "x"}}, "without dots"),
        ({"adapters": {"a": "("}}, "no regular expression"),
        ({"adapters": {"a": "x"}, "lora_rank": None}, "lora_rank"),
    ],
)
def test_adapters_that_cannot_be_are_refused(settings, message):
    """Names must fit peft's format, roles must be regular expressions, and there must be a rank."""
    with pytest.raises(ConfigurationError, match=message):
        agl.GRPO(model="m", **settings)


def test_metrics_of_adapters_are_told_apart_and_averaged():
    """Counts are added up."""
    own = {"a": {"training/loss": 1.0, "training/n_x": 5}, "b": {"training/loss": 2.0}}
    own["b"]["training/n_x"] = 1
    assert mean_metrics(own) == {
        "training/a/loss": 1.0,
        "training/a/n_x": 5,
        "training/b/loss": 2.0,
        "training/b/n_x": 1,
        "training/loss": 1.5,
        "training/n_x": 6,
    }
