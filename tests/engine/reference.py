"""What a full forward call says about a completion: the truth that the engine must agree with."""

import torch

from agentlightning.engine.request import Generation


def reference_logprobs(
    model: torch.nn.Module, generation: Generation, temperature: float = 1.0
) -> list[float]:
    """Return the log-probability of each sampled token, from one uncached forward call."""
    ids = torch.tensor([[*generation.prompt_ids, *generation.token_ids]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].float() / temperature
    start = len(generation.prompt_ids)
    rows = logits.log_softmax(-1)[start - 1 : -1]
    return rows.gather(1, ids[0, start:, None])[:, 0].tolist()
