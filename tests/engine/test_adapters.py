"""Several LoRA adapters in one module: sampled side by side, loaded, kept apart."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from agentlightning.engine.adapters import (
    BASE,
    activate_adapter,
    adapter_names,
    load_adapter,
)
from agentlightning.engine.decoder import ModuleDecoder
from agentlightning.engine.engine import Engine
from agentlightning.engine.loading import LoadedModel
from agentlightning.engine.sampling import SamplingParams
from agentlightning.errors import ConfigurationError, RequestError
from tests.engine.reference import reference_logprobs

# peft's own model class asks transformers for a name that this is to lose.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

MakeEngine = Callable[..., Engine]
PROMPT = list(range(40, 90))
SIX = SamplingParams(max_tokens=6, ignore_eos=True)


def add_adapter(model: Any, name: str, seed: int, **config: Any) -> None:
    """Inject a random adapter, far enough from zero to change what is sampled."""
    settings = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", **config}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        peft.inject_adapter_in_model(
            peft.LoraConfig(task_type="CAUSAL_LM", **settings), model, adapter_name=name
        )
    torch.manual_seed(seed)
    for key, parameter in model.named_parameters():
        if f".{name}." in key:
            torch.nn.init.normal_(parameter.data, std=0.1)


@pytest.fixture
def model(tiny: LoadedModel) -> Any:
    """A model with adapters `a` (all layers) and `b` (some layers, another rank)."""
    model = copy.deepcopy(tiny.model)
    add_adapter(model, "a", 1)
    add_adapter(model, "b", 2, r=2, target_modules=["q_proj", "down_proj"])
    return model.eval()


def reference(model: Any, generation: Any, adapter: str | None) -> list[float]:
    activate_adapter(model, adapter)
    return reference_logprobs(model, generation)


@pytest.mark.parametrize("own_forward", [True, False])
async def test_each_adapter_has_exact_logprobs_in_one_batch(
    model: Any, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, own_forward: bool
) -> None:
    """Completions of two adapters and the base run together, each as a full forward says."""
    if not own_forward:
        monkeypatch.setattr("agentlightning.engine.sampler.open_decoder", ModuleDecoder)
    engine = make_engine(model, seed=0)
    wanted = ["a", "b", BASE, "a", None, "b"]
    futures = [engine.submit(PROMPT, SIX, adapter=name) for name in wanted]
    generations = [future.result(60) for future in futures]
    for name, generation in zip(wanted, generations, strict=True):
        expected = reference(model, generation, name or None)
        assert list(generation.logprobs) == pytest.approx(expected, abs=1e-4)
    # Far fewer forward calls than one for each token: rows of all adapters share them.
    assert engine.stats().steps < 6 * 6
    apart = reference(model, generations[0], "b")
    assert max(abs(x - y) for x, y in zip(apart, generations[0].logprobs, strict=True)) > 1e-2


async def test_default_is_the_adapter_of_that_name(tiny: LoadedModel, make_engine: Any) -> None:
    """With an adapter called `default` a request without a name gets it, and BASE the base."""
    model = copy.deepcopy(tiny.model)
    add_adapter(model, "default", 3)
    engine = make_engine(model)
    for name, used in ((None, "default"), (BASE, None), ("default", "default")):
        generation = await engine.generate(PROMPT, SIX, adapter=name)
        expected = reference(model, generation, used)
        assert list(generation.logprobs) == pytest.approx(expected, abs=1e-4)


async def test_adapters_share_no_prefixes_and_go_stale_one_by_one(
    model: Any, make_engine: MakeEngine
) -> None:
    """A prompt is cached per adapter; a new version of one leaves the other's prefixes."""
    engine = make_engine(model)

    async def cached(name: str) -> int:
        return (await engine.generate(PROMPT, SIX, adapter=name)).cached_prompt_tokens

    assert [await cached(name) for name in ("a", "b", "a", "b")] == [0, 0, 48, 48]
    for key, parameter in model.named_parameters():
        if ".a." in key:
            parameter.data.mul_(-2)
    engine.set_version(7, adapters={"a"})
    assert [await cached(name) for name in ("a", "b", "a")] == [0, 48, 48]
    generation = await engine.generate(PROMPT, SIX, adapter="a")
    assert generation.versions == ((0, 6, 7),)
    expected = reference(model, generation, "a")
    assert list(generation.logprobs) == pytest.approx(expected, abs=1e-4)
    engine.set_version(8)
    assert [await cached(name) for name in ("a", "b")] == [0, 0]


async def test_an_unknown_adapter_is_a_request_error(model: Any, make_engine: MakeEngine) -> None:
    """Nobody gets the base for a name that was misspelt."""
    with pytest.raises(RequestError, match="no adapter 'c'") as caught:
        await make_engine(model).generate(PROMPT, SIX, adapter="c")
    assert (caught.value.status, caught.value.error_code) == (404, "model_not_found")


def test_sampling_leaves_alone_what_can_be_trained(model: Any, make_engine: MakeEngine) -> None:
    """Whichever adapter is sampled, the parameters that a trainer trains stay as they were."""
    before = {key: it.requires_grad for key, it in model.named_parameters()}
    engine = make_engine(model)
    for name in ("a", "b", BASE):
        engine.submit(PROMPT, SIX, adapter=name).result(60)
    activate_adapter(model, "a")
    assert {key: it.requires_grad for key, it in model.named_parameters()} == before


def saved(tiny: LoadedModel, path: Path, **config: Any) -> Path:
    """Write an adapter as peft does; returns its directory."""
    settings = {"r": 4, "target_modules": ["q_proj", "up_proj"], "init_lora_weights": False}
    made = peft.get_peft_model(
        copy.deepcopy(tiny.model),
        peft.LoraConfig(task_type="CAUSAL_LM", **{**settings, **config}),
    )
    made.save_pretrained(str(path))
    return path


async def test_an_adapter_from_a_directory_is_sampled(
    tiny: LoadedModel, make_engine: MakeEngine, tmp_path: Path
) -> None:
    """What peft saved computes in our module what peft's own model computes."""
    torch.manual_seed(5)
    path = saved(tiny, tmp_path / "one")
    model = copy.deepcopy(tiny.model)
    load_adapter(model, "one", path)
    load_adapter(model, "two", saved(tiny, tmp_path / "two"))
    assert adapter_names(model) == {"one", "two"}
    assert not any(it.requires_grad for key, it in model.named_parameters() if ".lora_" in key)
    generation = await make_engine(model).generate(PROMPT, SIX, adapter="one")
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(tiny.model), str(path))
    expected = reference_logprobs(loaded, generation)
    assert list(generation.logprobs) == pytest.approx(expected, abs=1e-4)
    plain = reference_logprobs(tiny.model, generation)
    assert max(abs(x - y) for x, y in zip(plain, expected, strict=True)) > 1e-2


def test_what_is_no_fitting_adapter_is_refused(tiny: LoadedModel, tmp_path: Path) -> None:
    """Directories without an adapter, adapters of another shape, and names already taken."""
    model = copy.deepcopy(tiny.model)
    with pytest.raises(ConfigurationError, match=r"no adapter_config\.json"):
        load_adapter(model, "x", tmp_path)
    good = saved(tiny, tmp_path / "good")
    with pytest.raises(ConfigurationError, match="holds a dot"):
        load_adapter(model, "v1.0", good)
    load_adapter(model, "x", good)
    with pytest.raises(ConfigurationError, match="taken"):
        load_adapter(model, "x", good)
    config = good / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 4', '"r": 8'))
    with pytest.raises(ConfigurationError, match="does not fit"):
        load_adapter(model, "y", good)
