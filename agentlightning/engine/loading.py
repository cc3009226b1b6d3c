"""Loading a model and its tokenizer for sampling and training in this process.

Only decides where the files are and which number format fits this machine; adapters, optimisers
and the engine come later and elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentlightning.engine.catalog import CATALOG, fetch_model
from agentlightning.errors import ConfigurationError, MissingExtraError
from agentlightning.settings import Settings

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["LoadedModel", "load_model"]

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_SMALL_MODEL_PARAMETERS = 20_000_000
_CPU_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16 ")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal language model in evaluation mode, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    """Short name, for `model` fields of requests and answers."""
    path: str
    """Directory or hub id the weights came from."""


def load_model(
    source: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    settings: Settings | None = None,
) -> LoadedModel:
    """Load a causal language model and its tokenizer.

    The network is touched only for a hub id, and once for a catalog model that this machine does
    not hold yet.

    Args:
        source: A name of `catalog.CATALOG`, a directory in Hugging Face format, or a hub id
            (`owner/name`).
        dtype: `float32`, `bfloat16`, `float16`, or `auto`: bf16 on a GPU and on a CPU with bf16
            instructions, else fp32. Models under 20 million parameters are always fp32 under
            `auto`: they are trained whole, and bf16 would round small updates away.
        device: A torch device, or `auto` for the first CUDA GPU if there is one, else the CPU.
            Apple's `mps` has to be asked for.
        settings: The cache directory and the offline switch; by default the environment's.

    Raises:
        ConfigurationError: The source is none of the three, the dtype is unknown, or this machine
            has no such device.
        MissingExtraError: torch or transformers is not installed.
    """
    if dtype not in _DTYPES:
        raise ConfigurationError(f"dtype {dtype!r} is unknown; use one of {', '.join(_DTYPES)}")
    settings = settings or Settings.from_environment()
    path, local = _resolve(source, settings)
    try:
        device = _choose_device(device)
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "rl") from error
    offline = local or settings.offline
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=offline)
    with _no_progress_bar() if local else contextlib.nullcontext():
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype="auto", attn_implementation="sdpa", local_files_only=offline
        )
    number_format = _choose_dtype(dtype, device, model.num_parameters())
    model.to(device=device, dtype=number_format)
    model.eval()
    name = Path(path).name
    logger.info(
        "model loaded", extra={"model": name, "dtype": str(number_format), "device": device}
    )
    return LoadedModel(model, tokenizer, name, path)


def _resolve(source: str | Path, settings: Settings) -> tuple[str, bool]:
    """Return the directory or hub id, and whether it is on this machine."""
    if str(source) in CATALOG:
        return str(fetch_model(str(source), settings=settings)), True
    path = Path(source).expanduser()
    if path.is_dir():
        _check_directory(path)
        return str(path), True
    if isinstance(source, str) and _HUB_ID.fullmatch(source) and not path.exists():
        return source, False
    raise ConfigurationError(
        f"{str(source)!r} is no model: give a catalog name ({', '.join(CATALOG)}), "
        "a directory that exists, or a hub id of the form owner/name",
    )


def _check_directory(path: Path) -> None:
    try:
        config: Any = json.loads((path / "config.json").read_bytes())
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path} holds no config.json; give a directory written by save_pretrained",
        ) from None
    except ValueError as error:
        raise ConfigurationError(f"{path}/config.json is not JSON: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise ConfigurationError(
            f"{path}/config.json names no model_type; is it an adapter? Give the full model.",
        )


def _choose_device(device: str) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.partition(":")[0], False):
        have = ", ".join(name for name, usable in there.items() if usable)
        raise ConfigurationError(f"device {device!r} cannot be used here; this machine has: {have}")
    return device


def _choose_dtype(dtype: str, device: str, parameters: int) -> torch.dtype:
    import torch

    if dtype != "auto":
        return getattr(torch, dtype)
    if parameters < _SMALL_MODEL_PARAMETERS:
        return torch.float32
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.startswith("mps"):
        return torch.float32
    return torch.bfloat16 if _cpu_has_bf16() else torch.float32


def _cpu_has_bf16() -> bool:
    """Tell whether this CPU multiplies bf16 natively; without that, bf16 is slower than fp32."""
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return any(flag in described for flag in _CPU_BF16_FLAGS)


@contextlib.contextmanager
def _no_progress_bar() -> Generator[None]:
    """Keep transformers from drawing over our own view while it reads files of this machine."""
    from transformers.utils import logging as transformers_logging

    drawn = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            transformers_logging.enable_progress_bar()
