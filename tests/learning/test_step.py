"""The training step: its gradient does not depend on how the work is cut, and it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from agentlightning.errors import (
    ConfigurationError,
    EmptyBatchError,
    ExplodingGradientError,
    NonFiniteLossError,
)
from agentlightning.learning.lora import LoraConfig, inject_lora
from agentlightning.learning.losses import LossSpec
from agentlightning.learning.optimizer import AdamWConfig, Optimizer
from agentlightning.learning.step import StepConfig, score_rows, staleness, train_step
from tests.learning.tiny import batch_of, plain_logp, random_rows, row, tiny_llama

CONFIG = StepConfig()


def gradient(rows, loss=None, config=CONFIG, *, model=None):
    """The gradient that a step applies, captured where the optimiser would use it."""
    model = tiny_llama() if model is None else model
    optimizer = Optimizer(model, AdamWConfig(lr=0.0, grad_clip=None))
    seen = {}

    def keep(scale):
        seen.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    optimizer._apply = keep
    train_step(model, optimizer, batch_of(rows), loss or LossSpec(), config)
    return torch.cat([seen[name].flatten() for name in sorted(seen)])


def close(got, want):
    return float((got - want).norm()) < 2e-5 * float(want.norm())


def test_the_gradient_is_that_of_the_policy_gradient_by_hand():
    """On policy a step's gradient is that of -sum(weight * adv * logp) over plain forwards."""
    rows, model = random_rows(), tiny_llama()
    sum(
        -(plain_logp(model, one) * torch.from_numpy((one.weight * one.adv)[one.mask])).sum()
        for one in rows
    ).backward()
    want = torch.cat([p.grad.flatten() for _, p in sorted(model.named_parameters())])
    assert close(gradient(rows), want)


@pytest.mark.parametrize(
    "config",
    [
        StepConfig(max_slots=25),
        StepConfig(max_slots=40),
        StepConfig(layout="rows"),
        StepConfig(layout="rows", max_slots=20),
    ],
)
@pytest.mark.parametrize("loss", [LossSpec(), LossSpec(name="gspo"), LossSpec(anchor="trainer")])
def test_the_gradient_does_not_depend_on_micro_batches_layout_or_order(config, loss):
    """However rows are cut into passes, laid out or ordered, the gradient is the same."""
    rng = np.random.default_rng(1)
    rows = [
        replace(one, logp_rollout=(-rng.uniform(0.5, 4, len(one.ids))).astype(np.float32))
        for one in random_rows()
    ]
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    assert close(gradient(shuffled, loss, config), gradient(rows, loss))


def test_on_policy_losses_anchors_and_corrections_agree():
    """With the policy's own log-probabilities every loss and anchor has the same gradient."""
    rows, model = random_rows(), tiny_llama()
    logps = score_rows(model, batch_of(rows), CONFIG)
    known = [
        replace(one, logp_rollout=np.nan_to_num(lp)) for one, lp in zip(rows, logps, strict=True)
    ]
    want = gradient(rows)
    specs = [LossSpec(), LossSpec(name="reinforce_is"), LossSpec(anchor="trainer")]
    specs += [LossSpec(name="cispo", clip_low=1.0, clip_high=4.0)]
    specs += [LossSpec(anchor="trainer", correction="sequence_mask")]
    for spec in specs:
        assert close(gradient(known, spec), want), spec


def test_merged_turns_have_the_gradient_of_separate_turns():
    """One row with two trained spans equals a row per turn, each span trained where it ended."""
    both = row([1, 2, 3, 4, 5, 6, 7], [2, 3, 5, 6], weight=0.1, adv=0.7)
    first = row([1, 2, 3, 4], [2, 3], weight=0.1, adv=0.7)
    second = row([1, 2, 3, 4, 5, 6, 7], [5, 6], weight=0.1, adv=0.7)
    assert close(gradient([both]), gradient([first, second]))


def test_untrained_tokens_get_no_gradient_of_their_own():
    """Changing what an observation token would have been predicted as changes nothing."""
    one = row([1, 2, 3, 4, 5], [2])
    other = row([1, 2, 3, 9, 9], [2])
    assert torch.equal(gradient([one]), gradient([other]))


def test_unknown_logprobs_stand_for_the_trainers_own():
    """NaN in one row gives it ratio 1, and leaves other rows' ratios alone."""
    model, optimizer = tiny_llama(), None
    optimizer = Optimizer(model, AdamWConfig(lr=0.0))
    rows = [row([1, 2, 3], [1, 2]), row([1, 4, 5], [1, 2], logp=-1.0)]
    metrics = train_step(model, optimizer, batch_of(rows), LossSpec(), CONFIG)
    with torch.no_grad():
        ratio = (plain_logp(model, rows[1]) + 1.0).exp()
    assert metrics["training/ratio_mean"] == pytest.approx((2 + float(ratio.sum())) / 4, rel=1e-4)
    assert metrics["training/n_trained_tokens"] == 4


def test_metrics_describe_the_batch():
    """Counts, packing ratio and an effective sample size of 1 on policy."""
    model = tiny_llama()
    optimizer = Optimizer(model, AdamWConfig(lr=1e-3))
    rows = [row([1, 2, 3, 4], [3], adv=2.0, weight=0.5), row([1, 2, 3, 5], [3], adv=0.0)]
    metrics = train_step(model, optimizer, batch_of(rows), LossSpec(), StepConfig(entropy=True))
    assert metrics["training/loss"] == pytest.approx(-1.0)
    assert metrics["training/packing_ratio"] == pytest.approx(8 / 3)
    assert metrics["training/ess"] == pytest.approx(1.0)
    assert metrics["training/kl"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["training/entropy"] > 0
    assert metrics["training/grad_norm"] > 0
    assert metrics["training/n_rows"] == 2


def test_several_updates_keep_the_first_anchor():
    """With mini-batches and epochs the ratio moves away from 1, and every group is used."""
    model = tiny_llama()
    optimizer = Optimizer(model, AdamWConfig(lr=1e-2))
    loss = LossSpec(epochs=2, mini_batches=2)
    metrics = train_step(model, optimizer, batch_of(random_rows()), loss, CONFIG)
    assert metrics["training/n_updates"] == 4
    assert metrics["training/ratio_max"] > 1.01


def test_the_kl_penalty_pulls_towards_the_base_model():
    """With adapters the base is the reference; with full training one must be given."""
    model = tiny_llama()
    inject_lora(model, LoraConfig(r=4))
    optimizer = Optimizer(model, AdamWConfig(lr=1e-2))
    rows = [replace(one, adv=one.adv * 0) for one in random_rows()]
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    loss = LossSpec(kl_coef=1.0, kl_kind="k2", kl_unbiased=False)
    kls = [
        train_step(model, optimizer, batch_of(rows), loss, CONFIG)["training/kl_reference"]
        for _ in range(12)
    ]
    assert 0 <= kls[-1] < 0.5 * kls[0]
    full = tiny_llama()
    with pytest.raises(ConfigurationError, match="reference"):
        train_step(full, Optimizer(full, AdamWConfig(lr=0.1)), batch_of(rows), loss, CONFIG)


def test_the_entropy_bonus_flattens_the_policy():
    """A positive coefficient raises entropy from step to step."""
    model = tiny_llama()
    optimizer = Optimizer(model, AdamWConfig(lr=3e-3))
    rows = [replace(one, adv=one.adv * 0) for one in random_rows()]
    loss = LossSpec(entropy_coef=1.0)
    found = [
        train_step(model, optimizer, batch_of(rows), loss, CONFIG)["training/entropy"]
        for _ in range(5)
    ]
    assert found == sorted(found)


def test_steps_raise_the_probability_of_good_answers():
    """A few steps move log-probabilities by the sign of the advantage."""
    model = tiny_llama()
    optimizer = Optimizer(model, AdamWConfig(lr=1e-3))
    good, bad = row([1, 2, 3, 4], [2, 3], adv=1.0), row([1, 2, 8, 9], [2, 3], adv=-1.0)
    batch = batch_of([good, bad])
    before = score_rows(model, batch, CONFIG)
    for _ in range(3):
        train_step(model, optimizer, batch, LossSpec(), CONFIG)
    after = score_rows(model, batch, CONFIG)
    assert np.nansum(after[0]) > np.nansum(before[0])
    assert np.nansum(after[1]) < np.nansum(before[1])


def test_nothing_to_learn_from_is_an_error():
    """A batch without trained tokens raises with what to check."""
    model = tiny_llama()
    optimizer = Optimizer(model, AdamWConfig(lr=0.1))
    with pytest.raises(EmptyBatchError, match="check that"):
        train_step(model, optimizer, batch_of([row([1, 2], [])]), LossSpec(), CONFIG)


def test_a_loss_that_is_not_finite_updates_nothing_and_names_the_rollout():
    """NaN weights in the model raise before the update, with the rollout's id."""
    model = tiny_llama()
    optimizer = Optimizer(model, AdamWConfig(lr=0.1))
    with torch.no_grad():
        model.lm_head.weight[7] = float("nan")
    before = model.model.embed_tokens.weight.clone()
    with pytest.raises(NonFiniteLossError, match="ro-0-1"):
        train_step(model, optimizer, batch_of(random_rows()), LossSpec(), CONFIG)
    assert torch.equal(model.model.embed_tokens.weight, before)


def test_a_gradient_that_explodes_updates_nothing_and_names_the_rollout():
    """Above the limit the message tells the rollout with the largest pull and the largest ratio."""
    model = tiny_llama()
    optimizer = Optimizer(model, AdamWConfig(lr=0.1, grad_norm_limit=1.0))
    before = model.model.embed_tokens.weight.clone()
    rows = [*random_rows(), row([1, 2, 3, 4], [2, 3], adv=1e6, rollout="ro-odd")]
    with pytest.raises(ExplodingGradientError, match=r"nothing was updated.*weight: ro-odd"):
        train_step(model, optimizer, batch_of(rows), LossSpec(), CONFIG)
    assert torch.equal(model.model.embed_tokens.weight, before)


def test_staleness_is_counted_in_versions_of_trained_tokens():
    """Context and unknown versions do not count."""
    old = row([1, 2, 3, 4], [2, 3], versions=np.array([0, 9, 3, 5], dtype=np.int32))
    unknown = row([1, 2, 3], [2])
    found = staleness(batch_of([old, unknown]), 7)
    assert found == {"training/staleness_mean": 3.0, "training/staleness_max": 4.0}
    assert staleness(batch_of([unknown]), 7) == {}
