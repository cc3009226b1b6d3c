"""Preference steps: their gradient is the textbook loss's, whatever the packing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from agentlightning.algorithm.dpo import DPOConfig
from agentlightning.algorithm.kto import KTOConfig
from agentlightning.algorithm.policy.answer_batch import read_rows
from agentlightning.algorithm.policy.policy import Policy
from agentlightning.algorithm.policy.preference import PreferenceGradient, mismatched_rows
from agentlightning.learning.lora import adapters_disabled
from tests.algorithm.policy.outcomes import outcome, told
from tests.learning.tiny import plain_logp
from tests.support.spans import make_call

pytestmark = pytest.mark.usefixtures("one_thread")


def answer(name, reward, *ids, group="g", prompt=12):
    """A rollout with one call of these answers' tokens each; several make several rows."""
    calls = tuple(
        make_call(
            f"{name}-{n}",
            prompt_token_ids=[10, 11, prompt + n],
            choices=[{"token_ids": each, "logprobs": [-1.0] * len(each)}],
        )
        for n, each in enumerate(ids)
    )
    found = told(name, reward, *calls)
    return type(found)(**{k: getattr(found, k) for k in found.__slots__} | {"group_id": group})


def outcomes():
    """Two groups: one of three answers, of which one has two rows, and one of two."""
    return [
        answer("a", 1.0, [20, 21, 22], [30, 31]),
        answer("b", 0.0, [23, 24]),
        answer("c", 0.5, [25, 26, 27, 28]),
        answer("d", 0.0, [20, 22], group="h"),
        answer("e", 1.0, [33], group="h"),
    ]


async def policy_of(config, store):
    policy = Policy(config, store)
    await policy.load(None)
    return policy


def config_of(kind, tiny_model, **settings):
    fields = {"model_alias": "tiny", "lora_rank": 4, "learning_rate": 2e-3, "beta": 0.5}
    return kind(model=str(tiny_model), **{**fields, **settings})


def logps(policy, found):
    """Return each outcome's log-probability from ordinary forward passes, with a gradient."""
    model = policy._backend.model
    batch, _ = found.batch([1.0] * len(found.outcomes), aggregate="token_mean", temperature=1.0)
    sums = {}
    for row in batch:
        sums[row.rollout_id] = sums.get(row.rollout_id, 0.0) + plain_logp(model, row).sum()
    return sums


def textbook_norm(policy, loss):
    parameters = [p for p in policy._backend.model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return float(torch.sqrt(sum((g.double() ** 2).sum() for g in gradients if g is not None)))


def dpo_by_hand(now, reference):
    """`best_worst`: a before b, and e before d."""
    ratio = {name: now[name] - reference[name].detach() for name in now}
    margins = torch.stack([ratio["a"] - ratio["b"], ratio["e"] - ratio["d"]])
    return -F.logsigmoid(0.5 * margins).mean()


def kto_by_hand(now, reference):
    """a and e are good, b and d bad, c is at its group's mean."""
    ratio = {name: now[name] - reference[name].detach() for name in "abde"}
    point = torch.stack(list(ratio.values())).mean().clamp(min=0).detach()
    values = [torch.sigmoid(0.5 * (ratio[name] - point)) for name in "ae"]
    values += [torch.sigmoid(0.5 * (point - ratio[name])) for name in "bd"]
    return (1 - torch.stack(values)).mean()


@pytest.mark.parametrize("micro_batch_tokens", [8, 2048])
@pytest.mark.parametrize(("kind", "by_hand"), [(DPOConfig, dpo_by_hand), (KTOConfig, kto_by_hand)])
async def test_loss_and_gradient_are_the_textbooks(
    store, tiny_model, kind, by_hand, micro_batch_tokens
):
    """Away from the reference too, in one pass over all rows or in many small ones."""
    config = config_of(kind, tiny_model, micro_batch_tokens=micro_batch_tokens)
    policy = await policy_of(config, store)
    try:
        learner = PreferenceGradient(config, policy)
        await learner.learn(outcomes(), step=0)
        found = read_rows(outcomes(), roles=None)
        with adapters_disabled(policy._backend.model):
            reference = logps(policy, found)
        wanted = by_hand(logps(policy, found), reference)
        norm = textbook_norm(policy, wanted)
        metrics = await learner.learn(outcomes(), step=1)
    finally:
        await policy.stop()
    assert metrics["training/loss"] == pytest.approx(wanted.item(), rel=1e-4)
    assert metrics["training/grad_norm"] == pytest.approx(norm, rel=1e-3)


@pytest.mark.parametrize("kind", [DPOConfig, KTOConfig])
async def test_updates_widen_the_margin(store, tiny_model, kind):
    """Several updates of a step go on from one another; the figures tell what became better."""
    config = config_of(kind, tiny_model, update_epochs=6)
    policy = await policy_of(config, store)
    try:
        learner = PreferenceGradient(config, policy)
        before = await learner.measure(outcomes())
        metrics = await learner.learn(outcomes(), step=0)
        after = await learner.measure(outcomes())
    finally:
        await policy.stop()
    assert before["val/rewards/margins"] == pytest.approx(0.0, abs=1e-5)
    assert after["val/loss"] < before["val/loss"]
    assert after["val/rewards/margins"] > metrics["training/rewards/margins"] > 0
    assert after["val/rewards/accuracies"] == 1.0
    assert after["val/logps/chosen"] > before["val/logps/chosen"]
    assert after["val/logps/rejected"] < before["val/logps/rejected"]
    assert metrics["training/n_compared"] == 4
    assert metrics["training/group_use"] == 1


async def test_equal_rewards_are_no_step(store, tiny_model):
    """Groups of one mind give no pair, and the policy stays at its version."""
    policy = await policy_of(config := config_of(DPOConfig, tiny_model), store)
    try:
        equal = [outcome("a", 1.0), outcome("b", 1.0), outcome("c", None)]
        metrics = await PreferenceGradient(config, policy).learn(equal, step=0)
        assert policy.version == 0
    finally:
        await policy.stop()
    assert metrics["training/n_compared"] == metrics["training/n_trained_tokens"] == 0
    assert metrics["training/n_zero_adv_groups"] == 1


def test_mismatched_rows_have_the_next_rows_answer():
    """Each prompt once and each answer once, masks along with them."""
    found = read_rows(outcomes(), roles=None)
    batch, _ = found.batch([0.0] * 5, aggregate="token_mean", temperature=1.0)
    mixed = mismatched_rows(batch)
    for place, row in enumerate(mixed):
        other = batch.rows[(place + 1) % len(batch)]
        np.testing.assert_array_equal(row.ids[row.mask], other.ids[other.mask])
        np.testing.assert_array_equal(row.ids[:3], batch.rows[place].ids[:3])


async def test_records_take_the_reference_point_of_mismatched_answers(store, tiny_model):
    """It is the policy's own distance on other answers, not that of these."""
    settings = {"source": "records", "group_size": 1}
    points = {}
    for wanted in ("auto", "batch", "zero"):
        config = config_of(KTOConfig, tiny_model, reference_point=wanted, **settings)
        policy = await policy_of(config, store)
        good = [answer(name, 1.0, [40 + n, 41], prompt=50 + n) for n, name in enumerate("ab")]
        try:
            learner = PreferenceGradient(config, policy)
            for step in range(3):
                metrics = await learner.learn(good, step=step)
        finally:
            await policy.stop()
        points[wanted] = metrics["training/kl_point"]
    assert points["zero"] == 0
    assert points["batch"] > 0
    assert points["auto"] >= 0
    assert points["auto"] != points["batch"]
