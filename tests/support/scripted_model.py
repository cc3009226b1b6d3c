"""A model that says what it was told to: for tests of what comes after sampling."""

import copy
from typing import Any

import torch

from agentlightning.engine.loading import LoadedModel


def teach(loaded: LoadedModel, *texts: str, tokenizer: Any = None) -> Any:
    """Return a copy of a model whose completions of any prompts are `texts`, in turn, for ever.

    The output head is replaced: it counts the tokens it made, so one request at a time, and any
    temperature will do. Each text ends with the end token.

    Args:
        loaded: The model and its tokenizer.
        texts: What to say.
        tokenizer: What cuts the texts into tokens, if not the model's own.
    """
    tokenizer = tokenizer or loaded.tokenizer
    ids = [i for text in texts for i in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    model = copy.deepcopy(loaded.model)
    vocabulary = model.config.vocab_size

    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.at = 0

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            logits = torch.full((*hidden.shape[:-1], vocabulary), -20.0)
            logits[..., ids[self.at % len(ids)]] = 20.0
            self.at += 1
            return logits

    model.lm_head = Head()
    return model
