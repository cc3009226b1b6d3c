"""Agents made of functions."""

import logging
import multiprocessing
import pickle

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.litagent import FunctionalLitAgent, llm_rollout, prompt_rollout, rollout
from agentlightning.types import (
    LLM,
    Attempt,
    AttemptedRollout,
    PromptTemplate,
    ProxyLLM,
    Rollout,
)

ATTEMPTED = AttemptedRollout(
    rollout_id="ro-1",
    input="x",
    start_time=0.0,
    attempt=Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=0.0),
)
LLM_A = LLM(endpoint="http://a/v1", model="a")
PROXY = ProxyLLM(endpoint="http://p/v1", model="p", sampling_parameters={"temperature": 0})
PROMPT = PromptTemplate(template="{x}", engine="f-string")


@rollout
def with_llm(task: str, llm: LLM) -> str:
    """Say which model answers."""
    return f"{task} {llm.endpoint}"


@rollout
async def with_prompt(task: str, prompt_template: PromptTemplate, rollout: Rollout) -> str:
    return f"{prompt_template.format(x=task)} {rollout.rollout_id}"


@rollout
def with_both(task: str, llm: LLM, prompt_template: PromptTemplate) -> tuple[str, str]:
    return llm.model, prompt_template.template


@llm_rollout(strip_proxy=False)
def keeping_proxy(task: str, llm: LLM) -> LLM:
    return llm


def plain(task: str, llm: LLM) -> str:
    return llm.model


renamed = llm_rollout(plain, strip_proxy=False)


def test_the_llm_is_injected_with_the_attempt_in_its_url():
    """A proxied model becomes a plain one whose URL names the attempt."""
    assert with_llm.rollout("t", {"m": PROXY}, ATTEMPTED) == (
        "t http://p/rollout/ro-1/attempt/at-1/v1"
    )
    assert with_llm.rollout("t", {"m": LLM_A}, ATTEMPTED) == "t http://a/v1"


def test_the_proxy_can_be_kept():
    """`strip_proxy=False` hands over the published resource itself."""
    assert keeping_proxy.rollout("t", {"m": PROXY}, ATTEMPTED) is PROXY


async def test_template_and_rollout_are_injected():
    """An async function gets the template and, as it asks, the rollout."""
    assert with_prompt.is_async()
    assert await with_prompt.rollout_async("t", {"p": PROMPT}, ATTEMPTED) == "t ro-1"
    assert await with_prompt.training_rollout_async("t", {"p": PROMPT}, ATTEMPTED) == "t ro-1"


def test_both_resources_can_be_asked_for():
    """A function may name a model and a template, whatever their order when published."""
    assert with_both.rollout("t", {"p": PROMPT, "m": LLM_A}, ATTEMPTED) == ("a", "{x}")


def test_the_first_of_several_is_used(caplog):
    """With several models the first published one is injected, with a warning."""
    with caplog.at_level(logging.WARNING):
        assert with_llm.rollout("t", {"a": LLM_A, "p": PROXY}, ATTEMPTED) == "t http://a/v1"
    assert "several resources" in caplog.text


def test_missing_resources_are_named():
    """Without a fitting resource the error says which kind is missing and what is there."""
    with pytest.raises(ValueError, match=r"type LLM.*are: p"):
        with_llm.rollout("t", {"p": PROMPT}, ATTEMPTED)
    with pytest.raises(ValueError, match=r"type PromptTemplate.*are: none"):
        prompt_rollout(lambda task, prompt_template: None).rollout("t", {}, ATTEMPTED)


def test_a_proxy_needs_an_attempt():
    """A proxy cannot be stripped for a rollout without an attempt."""
    bare = Rollout(rollout_id="ro-1", input="x", start_time=0.0)
    with pytest.raises(ValueError, match="AttemptedRollout"):
        with_llm.rollout("t", {"m": PROXY}, bare)


async def test_the_wrong_kind_of_call_raises():
    """Sync functions are not awaited and async ones not called."""
    with pytest.raises(RuntimeError, match="is not async"):
        await with_llm.rollout_async("t", {"m": LLM_A}, ATTEMPTED)
    with pytest.raises(RuntimeError, match="is async"):
        with_prompt.rollout("t", {"p": PROMPT}, ATTEMPTED)


def test_the_agent_is_still_the_function():
    """Calling the agent calls the function, and it keeps its name and docstring."""
    assert with_llm("t", LLM_A) == "t http://a/v1"
    assert with_llm.__name__ == "with_llm"
    assert with_llm.__doc__ == "Say which model answers."
    assert isinstance(with_llm, FunctionalLitAgent)


def test_agents_know_that_they_need_resources():
    """A function that asks for a resource cannot run without."""
    assert with_llm.requires_resources()
    assert with_prompt.requires_resources()


@pytest.mark.parametrize(
    "func",
    [
        lambda task: None,
        lambda llm, task: None,
        lambda task, resources: None,
        lambda question, llm: None,
        lambda: None,
    ],
)
def test_signatures_that_do_not_fit_are_refused(func):
    """The first parameter must be `task`, and a resource must be asked for."""
    with pytest.raises(NotImplementedError, match="<lambda>"):
        rollout(func)
    with pytest.raises(ConfigurationError, match="'llm'"):
        llm_rollout(func)
    with pytest.raises(ConfigurationError, match="'prompt_template'"):
        prompt_rollout(func)


@pytest.mark.parametrize("agent", [with_llm, with_prompt, keeping_proxy])
def test_decorated_agents_pickle_by_name(agent):
    """Unpickling finds the agent of the module, not a copy."""
    assert pickle.loads(pickle.dumps(agent)) is agent


def test_agents_under_another_name_pickle_with_their_function():
    """An agent made beside its function is rebuilt around the same function and settings."""
    copy = pickle.loads(pickle.dumps(renamed))
    assert copy("t", LLM_A) == "a"
    assert copy.rollout("t", {"m": PROXY}, ATTEMPTED) == "p"


def test_local_agents_cannot_pickle_and_say_why():
    """A closure's agent is refused with the way out."""

    @rollout
    def local(task: str, llm: LLM) -> float:
        return 0.0

    with pytest.raises(ConfigurationError, match="top level of a module"):
        pickle.dumps(local)


def _ask(agent, answers):
    answers.put(agent.rollout("t", {"m": PROXY}, ATTEMPTED))


def test_agents_reach_spawned_processes():
    """A decorated agent works in a process that was started from nothing."""
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=_ask, args=(with_llm, answers))
    process.start()
    assert answers.get() == "t http://p/rollout/ro-1/attempt/at-1/v1"
    process.join(30)
    assert process.exitcode == 0
    process.close()
    answers.close()
