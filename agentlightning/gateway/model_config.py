"""The shape of one entry in 0.3.0's model lists."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

__all__ = ["ModelConfig"]


class ModelConfig(TypedDict):
    """One entry of a model list; entries of one name share its calls."""

    model_name: str
    """What agents call it by."""
    litellm_params: dict[str, Any]
    """`model` as `provider/name`, and where it is: `api_base`, `api_key`, `timeout` (seconds). Sampling
    parameters are defaults for calls that leave them out."""
    model_info: NotRequired[dict[str, Any]]
    """`trained`: False marks its calls as not to be learnt from. `input_cost_per_token`,
    `output_cost_per_token` and `cache_read_input_token_cost`: what budgets of money count."""
