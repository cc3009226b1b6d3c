"""The oracle: expected gradients of whole episodes equal the analytic policy gradient.

The policy is a Llama over two tokens, so that every episode can be enumerated and the gradient of
the expected reward computed from plain forward passes. Our side takes the long way: calls, token
tree, groups, advantages, shares, packed training step. A batch holds every pair of episodes as a
group of two, weighted by the probability of drawing that pair.
"""

import itertools
from dataclasses import dataclass, replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agentlightning.algorithm.grpo import GRPOConfig
from agentlightning.algorithm.policy.batch import batch_from_outcomes, loss_spec
from agentlightning.algorithm.policy.earned import Earned
from agentlightning.algorithm.policy.outcome import RolloutOutcome
from agentlightning.learning.step import StepConfig
from agentlightning.types import CallChoice
from tests.learning.test_step import gradient
from tests.support.spans import make_call

TOKENS = (0, 1)


def bandit():
    """A policy over two tokens, drawn wide, in double precision."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=2,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.6,
        max_position_embeddings=32,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).double().eval()


@dataclass(frozen=True)
class Asked:
    name: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    start: float
    reward: float = 0.0
    role: str | None = None


@dataclass(frozen=True)
class Episode:
    calls: tuple[Asked, ...]
    final: float
    outcome: str = "ok"
    roles: tuple[tuple[str, float], ...] = ()
    """Rewards by role."""

    @property
    def total(self):
        return self.final + sum(call.reward for call in self.calls)


def with_failures():
    """Two turns that merge, two parallel samples of one prompt, a fork; half of them fail early.

    A first answer of 0 makes the agent fail, which counts with the failure reward of -1. Another
    one has two tokens; the second turn is sampled twice, and the third forgot the first.
    """
    first = (1, 0, 0)
    yield Episode((Asked("x", first, (0,), 0),), -1.0, "agent_error")
    for y, u, v, z in itertools.product(TOKENS, repeat=4):
        calls = (
            Asked("x", first, (1, y), 0),
            Asked("u", (*first, 1, y, 0), (u,), 1),
            Asked("v", (*first, 1, y, 0), (v,), 1),
            Asked("z", (0, 1, y, u), (z,), 2),
        )
        yield Episode(calls, 0.3 + y * u - 0.7 * v * (1 - z) + 0.4 * z * y)


def with_steps():
    """Three turns for all, the second sampled twice, with rewards of their own."""
    for x, u, v, y in itertools.product(TOKENS, repeat=4):
        calls = (
            Asked("x", (1, 0, 0), (x,), 0, reward=0.5 * x),
            Asked("u", (1, 0, 0, x, 1), (u,), 1, reward=0.2 * u * x),
            Asked("v", (1, 0, 0, x, 1), (v,), 1),
            Asked("y", (0, x, v), (y,), 2, reward=-0.6 * y * u),
        )
        yield Episode(calls, 1.0 * v * y - 0.25 * x)


def scores(model, episode):
    """Log-probabilities of each call's answer tokens, from plain forward passes."""
    found = {}
    for call in episode.calls:
        ids = torch.tensor([[*call.prompt, *call.answer]])
        logp = model(ids).logits[0].log_softmax(-1)
        places = range(len(call.prompt) - 1, ids.shape[1] - 1)
        found[call.name] = torch.stack([logp[p, ids[0, p + 1]] for p in places])
    return found


def outcome(name, group, episode, logps):
    calls = tuple(
        make_call(
            f"{name}-{call.name}",
            role=call.role,
            prompt_token_ids=list(call.prompt),
            choices=[CallChoice(token_ids=list(call.answer), logprobs=logps[call.name].tolist())],
            start=call.start,
            end=call.start + 0.5,
        )
        for call in episode.calls
    )
    linked = {f"{name}-{call.name}": call.reward for call in episode.calls if call.reward}
    earned = Earned(
        final=episode.final,
        own=episode.final,
        closing=episode.final,
        linked=linked,
        dimensions=dict(episode.roles),
    )
    return RolloutOutcome(
        rollout_id=name, group_id=group, task={}, reward=episode.final, outcome=episode.outcome,
        error=None, calls=calls, span_count=len(calls), earned=earned,
    )  # fmt: skip


def expected_gradient(model, episodes, config, *, loss=None, extra=lambda group, logps: []):
    """The expectation, over pairs of episodes, of the gradient of one step on that pair."""
    with torch.no_grad():
        logps = [scores(model, episode) for episode in episodes]
        chances = [float(torch.cat(list(each.values())).sum().exp()) for each in logps]
    outcomes, chance_of = [], {}
    pairs = list(itertools.combinations_with_replacement(range(len(episodes)), 2))
    for number, (one, other) in enumerate(pairs):
        group = f"g{number}"
        chance_of[group] = chances[one] * chances[other] * (1 if one == other else 2)
        outcomes += [
            outcome(f"{group}-{place}", group, episodes[each], logps[each])
            for place, each in enumerate((one, other))
        ]
        outcomes += extra(group, logps)
    batch, _ = batch_from_outcomes(outcomes, config, seed="s")
    # Each group's share of the batch becomes the probability of drawing it.
    rows = [
        replace(row, weight=row.weight * (len(pairs) * chance_of[row.group_id])) for row in batch
    ]
    return gradient(rows, loss or loss_spec(config), StepConfig(max_slots=4096), model=model)


def analytic(model, value):
    """The gradient of a number, negated as a loss's is, laid out as the step's."""
    model.zero_grad()
    (-value).backward()
    found = torch.cat([p.grad.flatten() for _, p in sorted(model.named_parameters())])
    model.zero_grad()
    return found


def mean_reward(model, episodes, reward=lambda episode: episode.total):
    """The expected reward, differentiable, by enumeration."""
    return sum(
        torch.cat(list(scores(model, each).values())).sum().exp() * reward(each)
        for each in episodes
    )


def assert_same(got, want):
    assert float(want.norm()) > 1e-3
    assert float((got - want).norm()) < 1e-5 * float(want.norm())


def config(**settings):
    """Sums over tokens, all groups kept: the plain policy gradient."""
    given = {"aggregate": "dr_grpo", "max_tokens": 1, "zero_signal": "keep"} | settings
    return GRPOConfig(model="m", group_size=2, **given)


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({"advantage": "rloo"}, 1.0),
        ({"advantage": "rloo", "loss": "reinforce_is"}, 1.0),
        ({"advantage": "rloo", "loss": "cispo", "clip_low": 1.0, "clip_high": 4.0}, 1.0),
        ({"advantage": "rloo", "anchor": "trainer"}, 1.0),
        # A mean that includes the rollout itself shrinks the gradient by (G - 1) / G.
        ({"advantage": "group"}, 0.5),
        ({"advantage": "reward"}, 1.0),
    ],
)
def test_the_expected_step_is_the_gradient_of_the_expected_reward(settings, factor):
    """Multi-turn, forked, parallel and failed episodes: the estimate has no bias."""
    model, episodes = bandit(), list(with_failures())
    want = factor * analytic(model, mean_reward(model, episodes))
    assert_same(expected_gradient(model, episodes, config(**settings)), want)


def test_a_rollout_that_the_infrastructure_lost_changes_nothing():
    """An unscored third member is no part of the baseline, of the rows, or of the shares."""
    model, episodes = bandit(), list(with_failures())
    want = analytic(model, mean_reward(model, episodes))

    def lost(group, logps):
        found = outcome(f"{group}-lost", group, episodes[1], logps[1])
        return [replace(found, reward=None, outcome="harness_error")]

    assert_same(expected_gradient(model, episodes, config(advantage="rloo"), extra=lost), want)


def test_the_share_of_a_rollout_does_not_depend_on_its_forks():
    """`rollout_mean` divides by the rollout's tokens, whatever rows they lie in."""
    model, episodes = bandit(), list(with_failures())
    chances = [scores(model, each) for each in episodes]
    logp = [torch.cat(list(each.values())).sum() for each in chances]
    mean = sum(float(p.exp().detach()) * e.total for p, e in zip(logp, episodes, strict=True))
    value = sum(
        p.exp().detach() * (e.total - mean) / sum(len(c.answer) for c in e.calls) * p
        for p, e in zip(logp, episodes, strict=True)
    )
    got = expected_gradient(model, episodes, config(advantage="rloo", aggregate="rollout_mean"))
    assert_same(got, analytic(model, value))


def test_turn_credit_is_the_gradient_of_all_rewards():
    """Rewards before a turn are no part of its return, and the gradient is the same without."""
    model, episodes = bandit(), list(with_steps())
    want = analytic(model, mean_reward(model, episodes))
    assert_same(expected_gradient(model, episodes, config(advantage="rloo", credit="turn")), want)


def test_discounted_turn_credit_is_that_of_discounted_returns():
    """Each call answers for its own and later rewards, each discounted by the calls in between."""
    model, episodes, depth = bandit(), list(with_steps()), {"x": 0, "u": 1, "v": 1, "y": 2}
    value = 0.0
    for episode in episodes:
        logps = scores(model, episode)
        chance = torch.cat(list(logps.values())).sum().exp().detach()
        for call in episode.calls:
            later = [c for c in episode.calls if depth[c.name] > depth[call.name]]
            total = call.reward + 0.5 ** (2 - depth[call.name]) * episode.final
            total += sum(0.5 ** (depth[c.name] - depth[call.name]) * c.reward for c in later)
            value = value + chance * total * logps[call.name].sum()
    settings = {"advantage": "rloo", "credit": "turn", "turn_discount": 0.5}
    assert_same(expected_gradient(model, episodes, config(**settings)), analytic(model, value))


def test_span_credit_adds_each_calls_own_reward():
    """The rollout's part is its own reward's gradient; a call's reward moves that call alone."""
    model, episodes = bandit(), list(with_steps())
    value = mean_reward(model, episodes, reward=lambda episode: episode.final)
    for episode in episodes:
        logps = scores(model, episode)
        chance = torch.cat(list(logps.values())).sum().exp().detach()
        for call in episode.calls:
            value = value + chance * call.reward * logps[call.name].sum()
    settings = {"advantage": "rloo", "credit": "span"}
    assert_same(expected_gradient(model, episodes, config(**settings)), analytic(model, value))


def test_agent_credit_is_each_roles_gradient_of_its_own_reward():
    """The planner's tokens learn from the planner's reward, the coder's from the coder's."""
    model, episodes = bandit(), []
    for plain in with_steps():
        chosen = {call.name: call.answer[0] for call in plain.calls}
        calls = tuple(
            replace(call, reward=0.0, role="coder" if call.name in "uv" else "planner")
            for call in plain.calls
        )
        rewards = {
            "planner": chosen["x"] - 2.0 * chosen["y"] * chosen["u"],
            "coder": chosen["u"] * chosen["x"] + 0.5 * chosen["v"],
        }
        episodes.append(Episode(calls, 100.0, roles=tuple(rewards.items())))
    value = 0.0
    for episode in episodes:
        logps, own = scores(model, episode), dict(episode.roles)
        chance = torch.cat(list(logps.values())).sum().exp().detach()
        for call in episode.calls:
            value = value + chance * own[call.role] * logps[call.name].sum()
    # Two roles in each rollout are two units, so that each has half the rollout's share.
    want = analytic(model, value / 2)
    settings = {"advantage": "rloo", "credit": "agent"}
    assert_same(expected_gradient(model, episodes, config(**settings)), want)
