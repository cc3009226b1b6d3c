"""Credit by call in a real fit: runner, gateway, engine, step."""

import aiohttp
import pytest

import agentlightning as agl
from agentlightning.learning.batch import build_batch

pytestmark = pytest.mark.usefixtures("one_thread")


def graded(answer):
    """Return a number from 0 to 2 that hardly two answers have in common."""
    return sum(map(ord, answer)) % 17 / 8


class Team(agl.LitAgent):
    """A planner and a coder ask in turn; each is graded, one by a link, one by a dimension."""

    async def rollout_async(self, task, resources, rollout):
        answers = []
        async with aiohttp.ClientSession() as session:
            for role in ("planner", "coder"):
                with agl.span(role) as turn:
                    answers.append(await self.ask(session, resources, rollout, task, role))
                if role == "planner":
                    agl.emit_reward(10.0 + graded(answers[0]), span_id=turn.id)
        grades = {role: graded(a) for role, a in zip(("planner", "coder"), answers, strict=True)}
        agl.emit_reward({"total": sum(grades.values()), **grades}, primary_key="total")

    async def ask(self, session, resources, rollout, task, role):
        llm = resources["main_llm"]
        url = llm.get_base_url(rollout.rollout_id, rollout.attempt.attempt_id)
        body = {"model": llm.model, "messages": [{"role": "user", "content": f"{role} {task}"}]}
        headers = {"x-agl-role": role}
        async with session.post(f"{url}/chat/completions", json=body, headers=headers) as response:
            response.raise_for_status()
            return (await response.json())["choices"][0]["message"]["content"]


@pytest.mark.parametrize("credit", ["span", "turn", "agent", "state"])
def test_a_fit_credits_the_calls_that_earned_it(tiny_model, tmp_path, monkeypatch, credit):
    """What was linked to the planner's span, which only time ties to its call, reaches that call."""
    seen = []

    def watched(rollouts, spec, **given):
        seen.append((rollouts, spec, build_batch(rollouts, spec, **given)))
        return seen[-1][2]

    monkeypatch.setattr("agentlightning.algorithm.policy.batch.build_batch", watched)
    algorithm = agl.GRPO(
        model=str(tiny_model), model_alias="tiny", run_dir=str(tmp_path / "run"), group_size=4,
        batch_groups=1, steps=1, max_tokens=6, lora_rank=None, credit=credit, progress=[],
    )  # fmt: skip
    result = agl.Trainer(algorithm=algorithm, n_runners=1, concurrency=4).fit(Team(), ["go"])
    ((rollouts, spec, (batch, _)),) = seen
    assert spec.credit.kind == credit
    assert len(rollouts) == 4
    for rollout in rollouts:
        rewards = {call.role: call.reward for call in rollout.calls}
        assert rewards["coder"] == 0
        assert (rewards["planner"] >= 10) == (credit != "agent")
        if credit == "agent":
            assert set(rollout.role_rewards) == {"total", "planner", "coder"}
    (metrics,) = [line for line in result.metrics() if line["step"]]
    assert metrics["training/n_updates"] == 1
    assert metrics["training/turn_count"] == 2
    assert metrics["training/n_trained_tokens"] == batch.n_trained
    if credit == "agent":
        assert 0 <= metrics["training/planner/reward"] <= 2
    else:
        assert metrics["training/reward"] >= 10
