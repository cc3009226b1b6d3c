"""TRL's own trainers take what is exported."""

from typing import Any

import pytest
import trl
from transformers import AutoTokenizer

from agentlightning.adapter.export import ExportOptions, export_rollouts
from agentlightning.store.memory import InMemoryLightningStore
from tests.support.rollouts import add_rollout, said, user
from tests.support.tiny_model import make_tiny_model

pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(300),
]

ARGUMENTS = [{"city": "Rome"}, {"degrees": 3, "deep": {"k": [1]}}]


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("look", city={"type": "string"}), tool("turn", degrees={"type": "integer"})]


@pytest.fixture
async def store():
    """Four rollouts of two tasks, which call tools of different arguments."""
    store = InMemoryLightningStore(thread_safe=True)
    for task, arguments in zip("ab", ('{"city": "Rome"}', '{"degrees": 3}'), strict=True):
        function = {"name": "look" if task == "a" else "turn", "arguments": arguments}
        calls = [{"id": "c", "type": "function", "function": function}]
        asked = said("", tool_calls=calls)
        result = {"role": "tool", "tool_call_id": "c", "content": "done"}
        question = [user(task)]
        for answer, reward in (("good", 1.0), ("bad", 0.0)):
            turns = [(question, asked), ([*question, asked, result], said(answer))]
            await add_rollout(store, turns, task=task, reward=reward, tools=TOOLS)
    return store


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(make_tiny_model(tmp_path_factory.mktemp("model")))


def settings(directory, **more: Any) -> dict[str, Any]:
    common = {
        "output_dir": str(directory),
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
    }
    return {**common, **more}


@pytest.mark.parametrize("name", ["trl-sft", "trl-prompt-completion"])
async def test_supervised(store, model, tmp_path, name):
    """`SFTTrainer` renders the tools and calls of each row, and takes a step."""
    data = (await export_rollouts(store, name, ExportOptions(min_reward=0.5))).to_dataset()
    config = trl.SFTConfig(**settings(tmp_path))
    trainer = trl.SFTTrainer(model=model, args=config, train_dataset=data)
    texts = [trainer.processing_class.decode(row["input_ids"]) for row in trainer.train_dataset]
    assert '{"city": "Rome"}' in texts[0]
    assert '{"degrees": 3}' in texts[1]
    assert all("None" not in text and "null" not in text for text in texts)
    assert trainer.train().training_loss > 0


async def test_preference(store, model, tmp_path):
    """`DPOTrainer` takes pairs whose prompts hold calls of tools."""
    data = (await export_rollouts(store, "trl-dpo")).to_dataset()
    config = trl.DPOConfig(**settings(tmp_path))
    trainer = trl.DPOTrainer(model=model, args=config, train_dataset=data)
    row = trainer.train_dataset[0]
    decode = trainer.processing_class.decode
    assert "good" in decode(row["chosen_ids"])
    assert "bad" in decode(row["rejected_ids"])
    assert trainer.train().training_loss > 0


async def test_unpaired_preference(store, model, tmp_path):
    """`KTOTrainer` takes completions with their labels."""
    data = (await export_rollouts(store, "trl-kto")).to_dataset()
    config = trl.KTOConfig(**settings(tmp_path))
    trainer = trl.KTOTrainer(
        model=model,
        args=config,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    assert trainer.train().training_loss > 0
