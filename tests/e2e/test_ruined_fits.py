"""Whole fits in which numbers break down: how they stop, what they leave, and how they go on."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import agentlightning as agl
from agentlightning.algorithm.policy.result import FitResult
from agentlightning.errors import ExplodingGradientError, NonFiniteLossError, TrainingError
from agentlightning.learning import losses
from tests.algorithm.working import Scribe, Watcher
from tests.support.tiny_model import make_tiny_model

TASKS = ["a", "b", "c"]
RECORDS = [{"prompt": word, "completion": word[::-1]} for word in ("ab", "cd", "ef", "gh")]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny model."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny"), hidden=32)


@dataclass
class Loss:
    """A user's own loss, REINFORCE with a ratio, that is NaN in its call number `sick_at`."""

    calls: int = 0
    sick_at: int | None = None
    """There is a call for each update."""

    def __call__(self, batch: losses.TokenBatch, spec: losses.LossSpec) -> losses.LossValues:
        self.calls += 1
        value = -batch.advantage * batch.ratio(spec)
        value = value * float("nan") if self.calls == self.sick_at else value
        return losses.LossValues(value, torch.zeros_like(value))


@pytest.fixture
def loss(monkeypatch: pytest.MonkeyPatch) -> Loss:
    """The loss that is registered as `own` during the test."""
    monkeypatch.setattr(losses, "_LOSSES", dict(losses._LOSSES))
    own = Loss()
    losses.register_loss("own")(own)
    return own


class Grader(Scribe):
    """Asks with seeds of its own, one call at a time, so that fits can be repeated exactly.

    In one step it earns a lot more, as an agent with a mistake in its grading does.
    """

    def __init__(self, *, wild_step: int | None = None, factor: float = 1.0) -> None:
        super().__init__()
        self.seeded = True
        self._wild, self._factor = f"-t{wild_step}-", factor

    async def rollout_async(self, task: Any, resources: Any, rollout: Any) -> float:
        factor = self._factor if self._wild in rollout.rollout_id else 1.0
        return factor * await super().rollout_async(task, resources, rollout)


class Fits:
    """Fits of GRPO, or of SFT on records, in one run directory after another."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.watcher = Watcher()

    def grpo(self, name: str, agent: Grader, *, resume: bool | None = None, **own: Any):
        fields = {
            "lora_rank": None, "group_size": 3, "batch_groups": 2, "max_tokens": 2,
            "learning_rate": 3e-3,
        }  # fmt: skip
        return self._fit(agl.GRPO, name, {**fields, **own}, resume, agent, TASKS)

    def sft(self, name: str, *, resume: bool | None = None, **own: Any):
        fields = {"lora_rank": None, "batch_groups": 3, "learning_rate": 1e-2}
        return self._fit(agl.SFT, name, {**fields, **own}, resume, None, RECORDS)

    def _fit(self, make: Any, name: str, settings: Any, resume: Any, agent: Any, tasks: Any):
        self.watcher = Watcher()
        algorithm = make(
            model=str(self.model), model_alias="tiny", run_dir=str(self.folder / name),
            progress=[self.watcher], **settings,
        )  # fmt: skip
        return agl.Trainer(algorithm=algorithm).fit(agent, tasks, resume=resume)

    def weights(self, name: str, step: int) -> dict[str, torch.Tensor]:
        path = self.folder / name / "checkpoints" / f"step-{step:06d}"
        return load_file(path / "trained.safetensors")

    def check_left(self, name: str, *, step: int, error: TrainingError) -> FitResult:
        """Check what a fit left that stopped in the step after `step`; return its result."""
        result = FitResult.load(self.folder / name)
        assert (result.steps, result.interrupted) == (step, True)
        assert result.reason == f"{type(error).__name__}: {error}"
        assert result.checkpoint == self.folder / name / "checkpoints" / f"step-{step:06d}"
        assert max(result.checkpoint.parent.iterdir()) == result.checkpoint
        assert all(t.isfinite().all() for t in self.weights(name, step).values())
        assert [line["step"] for line in result.metrics()] == list(range(1, step + 1))
        assert self.watcher.events[-1] == ("ended", True)
        assert (
            f"  resume    run it again with run_dir='{result.run_dir}'" in self.watcher.next_steps
        )
        return result


@pytest.fixture
def fits(model: Path, tmp_path: Path) -> Fits:
    return Fits(model, tmp_path)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Tell whether two sets of weights are the same, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(("passes", "sick_at"), [(1, 3), (2, 6)], ids=["whole step", "half step"])
def test_a_loss_that_turns_nan_costs_one_step(fits: Fits, loss: Loss, passes: int, sick_at: int):
    """The fit stops in its third step and names rollouts, though the first of two updates of the
    step was done; mended and resumed it ends as if nothing had happened, bit for bit."""
    settings = {"loss": "own", "steps": 4, "update_epochs": passes, "keep": 4}
    fits.grpo("whole", Grader(), **settings)
    loss.calls, loss.sick_at = 0, sick_at
    told = r"the loss is not finite on \d+ of \d+ tokens, rollouts \['ro-.*Nothing was updated"
    with pytest.raises(NonFiniteLossError, match=told) as caught:
        fits.grpo("ruined", Grader(), **settings)
    fits.check_left("ruined", step=2, error=caught.value)
    assert same(fits.weights("ruined", 2), fits.weights("whole", 2))

    loss.sick_at = None
    result = fits.grpo("ruined", Grader(), resume=True, **settings)
    assert (result.steps, result.interrupted, result.reason) == (4, False, None)
    assert fits.watcher.info is not None
    assert fits.watcher.info.first_step == 2
    assert [report.step for report in fits.watcher.reports] == [3, 4]
    assert [line["step"] for line in result.metrics()] == [1, 2, 3, 4]
    assert same(fits.weights("ruined", 4), fits.weights("whole", 4))
    assert not same(fits.weights("whole", 4), fits.weights("whole", 2))


def test_a_gradient_beyond_the_limit_costs_one_step(fits: Fits):
    """Rewards that are a million times too large stop the fit and are named; resumed with the same
    limit it stops again, and with a larger one it takes the step, scaled down, and ends."""
    settings = {"steps": 4, "keep": 4}
    wild = Grader(wild_step=2, factor=1e6)
    fits.grpo("tame", Grader(), **settings)
    told = r"norm is .*grad_norm_limit=50; nothing was updated \(update 3, .*larger grad_norm_limit"
    with pytest.raises(ExplodingGradientError, match=told) as caught:
        fits.grpo("wild", wild, grad_norm_limit=50.0, **settings)
    assert "advantage times weight: ro-" in str(caught.value)
    fits.check_left("wild", step=2, error=caught.value)
    assert same(fits.weights("wild", 2), fits.weights("tame", 2))

    with pytest.raises(ExplodingGradientError, match="grad_norm_limit=60") as caught:
        fits.grpo("wild", wild, resume=True, grad_norm_limit=60.0, learning_rate=1e-3, steps=4)
    result = fits.grpo(
        "wild", wild, resume=True, grad_norm_limit=1e9, learning_rate=1e-3, **settings
    )
    assert (result.steps, result.interrupted) == (4, False)
    assert result.metrics()[2]["training/grad_norm"] > 50
    before, after = fits.weights("wild", 2), fits.weights("wild", 4)
    assert 0 < max(float((after[name] - before[name]).abs().max()) for name in before) < 1e-2


def test_a_gradient_out_of_proportion_costs_one_step(fits: Fits):
    """The same without a limit, by comparison with the norms before, which a resumed run still
    knows; a limit that is given then lets it pass."""
    settings = {"steps": 11, "lora_rank": 2, "group_size": 2}
    wild = Grader(wild_step=9, factor=1e8)
    for resume in (None, True):
        with pytest.raises(ExplodingGradientError, match="1000 times the median") as caught:
            fits.grpo("wild", wild, resume=resume, **settings)
        fits.check_left("wild", step=9, error=caught.value)
    result = fits.grpo("wild", wild, resume=True, grad_norm_limit=1e12, **settings)
    assert (result.steps, result.interrupted) == (11, False)


@pytest.mark.parametrize(
    ("rate", "limit", "error", "told"),
    [
        (
            1e3,
            100.0,
            ExplodingGradientError,
            r"grad_norm_limit=100; nothing was updated \(update 4",
        ),
        (1e16, None, NonFiniteLossError, r"not finite.*[Nn]othing was updated"),
    ],
    ids=["huge", "absurd"],
)
def test_a_step_that_ruined_the_weights_is_undone_by_going_back(
    fits: Fits, rate: float, limit: float | None, error: type[TrainingError], told: str
):
    """A step at a wrong rate stops the fit in the next; where its checkpoint is taken away the one
    before is resumed, and the end is that of a fit that never had the rate, bit for bit."""
    fits.sft("sane", steps=5)
    fits.sft("ruined", steps=2)
    with pytest.raises(error, match=told) as caught:
        fits.sft("ruined", resume=True, steps=5, learning_rate=rate, grad_norm_limit=limit)
    result = fits.check_left("ruined", step=3, error=caught.value)
    assert result.checkpoint is not None
    shutil.rmtree(result.checkpoint)
    result = fits.sft("ruined", resume=True, steps=5)
    assert (result.steps, result.interrupted) == (5, False)
    assert [line["step"] for line in result.metrics()] == [1, 2, 3, 4, 5]
    assert same(fits.weights("ruined", 5), fits.weights("sane", 5))


@pytest.mark.parametrize(("dtype", "rate"), [("float16", 1e5), ("float32", 1e20)])
def test_weights_that_overflow_are_never_saved(fits: Fits, dtype: str, rate: float):
    """A finite gradient can make infinite weights: no checkpoint holds them, and resumed at a sane
    rate the run begins where it was."""
    fits.sft("sane", steps=3, dtype=dtype)
    fits.sft("ruined", steps=1, dtype=dtype)
    with pytest.raises(NonFiniteLossError, match=r"infinite.*update 2, learning rate 1e") as caught:
        fits.sft("ruined", steps=3, dtype=dtype, learning_rate=rate)
    fits.check_left("ruined", step=1, error=caught.value)
    fits.sft("ruined", resume=True, steps=3, dtype=dtype)
    assert same(fits.weights("ruined", 3), fits.weights("sane", 3))
