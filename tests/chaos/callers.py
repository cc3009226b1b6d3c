"""Agents of the load test: five calls each, through OpenAI's and Anthropic's clients, streamed and
not, over tasks, threads and processes.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from anthropic import Anthropic, AsyncAnthropic
from openai import AsyncOpenAI, OpenAI

from agentlightning.types import ProxyLLM

CALLS = 5
PATIENCE = 60.0
"""Seconds for connecting too, for which the clients by themselves give five: a test of many at once on
a busy machine takes longer."""


@dataclass(frozen=True)
class Job:
    """One attempt to make calls for."""

    rollout_id: str
    attempt_id: str
    marker: str


@dataclass(frozen=True)
class Told:
    """What one agent was told, and what the gateway counted for it."""

    marker: str
    texts: list[str]
    manifest: dict[str, Any]


def question(job: Job, turn: int) -> str:
    return f"{job.marker} call {turn}"


def check(job: Job, turn: int, text: str) -> str:
    assert text == f"re: {question(job, turn)}", (job, turn, text)
    return text


def base_url(endpoint: str, job: Job) -> str:
    return ProxyLLM(endpoint=endpoint, model="m").get_base_url(job.rollout_id, job.attempt_id)


class TaskCaller:
    """Makes calls from one event loop."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        options = {"base_url": endpoint, "api_key": "k", "max_retries": 0, "timeout": PATIENCE}
        self.openai = AsyncOpenAI(**options)
        self.anthropic = AsyncAnthropic(**options)
        self.http = httpx.AsyncClient(timeout=PATIENCE)

    async def close(self) -> None:
        await self.openai.close()
        await self.anthropic.close()
        await self.http.aclose()

    async def work(self, job: Job) -> Told:
        url = base_url(self.endpoint, job)
        texts = [check(job, turn, await self.ask(url, job, turn)) for turn in range(CALLS)]
        sealed = await self.http.post(url.removesuffix("/v1") + "/seal", json={"timeout": 30})
        return Told(job.marker, texts, sealed.json())

    async def ask(self, url: str, job: Job, turn: int) -> str:
        messages: Any = [{"role": "user", "content": question(job, turn)}]
        if turn % 2:
            client = self.anthropic.with_options(base_url=url.removesuffix("/v1"))
            if turn == 1:
                answer = await client.messages.create(model="m", max_tokens=99, messages=messages)
                return "".join(block.text for block in answer.content if block.type == "text")
            async with client.messages.stream(
                model="m", max_tokens=99, messages=messages
            ) as stream:
                return "".join([text async for text in stream.text_stream])
        chat = self.openai.with_options(base_url=url).chat.completions
        if turn == 2:
            chunks = await chat.create(model="m", messages=messages, stream=True)
            return "".join([c.choices[0].delta.content or "" async for c in chunks if c.choices])
        answer = await chat.create(model="m", messages=messages)
        return answer.choices[0].message.content or ""


class ThreadCaller:
    """Makes the same calls from a thread."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        options = {"base_url": endpoint, "api_key": "k", "max_retries": 0, "timeout": PATIENCE}
        self.openai = OpenAI(**options)
        self.anthropic = Anthropic(**options)
        self.http = httpx.Client(timeout=PATIENCE)

    def close(self) -> None:
        self.openai.close()
        self.anthropic.close()
        self.http.close()

    def work(self, job: Job) -> Told:
        url = base_url(self.endpoint, job)
        texts = [check(job, turn, self.ask(url, job, turn)) for turn in range(CALLS)]
        sealed = self.http.post(url.removesuffix("/v1") + "/seal", json={"timeout": 30})
        return Told(job.marker, texts, sealed.json())

    def ask(self, url: str, job: Job, turn: int) -> str:
        messages: Any = [{"role": "user", "content": question(job, turn)}]
        if turn % 2:
            client = self.anthropic.with_options(base_url=url.removesuffix("/v1"))
            if turn == 1:
                answer = client.messages.create(model="m", max_tokens=99, messages=messages)
                return "".join(block.text for block in answer.content if block.type == "text")
            with client.messages.stream(model="m", max_tokens=99, messages=messages) as stream:
                return "".join(stream.text_stream)
        chat = self.openai.with_options(base_url=url).chat.completions
        if turn == 2:
            chunks = chat.create(model="m", messages=messages, stream=True)
            return "".join([c.choices[0].delta.content or "" for c in chunks if c.choices])
        return chat.create(model="m", messages=messages).choices[0].message.content or ""


async def call_in_tasks(endpoint: str, jobs: Sequence[Job], at_once: int) -> list[Told]:
    """Work on all jobs in this loop, so many at once."""
    caller = TaskCaller(endpoint)
    waiting = list(reversed(jobs))
    told: list[Told] = []

    async def slot() -> None:
        while waiting:
            told.append(await caller.work(waiting.pop()))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(slot())
    finally:
        await caller.close()
    return told


def call_in_threads(endpoint: str, jobs: Sequence[Job], at_once: int) -> Callable[[], list[Told]]:
    """Start so many threads on all jobs; the result waits for them."""
    waiting = list(reversed(jobs))
    told: list[Told] = []
    failures: list[BaseException] = []

    def slot() -> None:
        caller = ThreadCaller(endpoint)
        try:
            while True:
                try:
                    job = waiting.pop()
                except IndexError:
                    return
                told.append(caller.work(job))
        except BaseException as error:
            failures.append(error)
        finally:
            caller.close()

    threads = [threading.Thread(target=slot) for _ in range(at_once)]
    for thread in threads:
        thread.start()

    def wait() -> list[Told]:
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return told

    return wait


def call_in_process(endpoint: str, jobs: Sequence[Job], at_once: int, path: Path) -> None:
    """Work on all jobs in this process, and write down what was told."""
    told = asyncio.run(call_in_tasks(endpoint, jobs, at_once))
    path.write_text(json.dumps([vars(each) for each in told]))
