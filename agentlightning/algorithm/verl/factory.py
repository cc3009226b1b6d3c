"""`VERL(config)`: the reference's way to ask for an algorithm."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentlightning.algorithm.verl.translation import AlgorithmKind, Translation, translate
from agentlightning.errors import ConfigurationError

if TYPE_CHECKING:
    from agentlightning.algorithm.policy.optimizer import PolicyOptimizer
    from agentlightning.progress.base import ProgressSink

__all__ = ["VERL"]

logger = logging.getLogger(__name__)


def VERL(  # noqa: N802 - Compat 0.3.0: a factory function with a class's name
    config: Mapping[str, Any],
    trainer_cls: Any = None,
    daemon_cls: Any = None,
    *,
    progress: Sequence[ProgressSink] | None = None,
) -> PolicyOptimizer[Any]:
    """Return the algorithm that a verl configuration asks for, on this package's own backends.

    The dictionary is the one that 0.3.0 merged over verl's defaults; `docs/algorithms/verl.md`
    lists what each key becomes. Its keys that change nothing here are logged, unknown ones and
    whatever is done otherwise are named in a `UserWarning`.

    Args:
        config: Nested dictionary, or an OmegaConf container.
        trainer_cls: Not supported: it would subclass verl's trainer.
        daemon_cls: Not supported either.
        progress: What watches the fit; by default as `trainer.logger` says.

    Raises:
        ConfigurationError: A value makes no sense, or there is no counterpart for it.

    Example:
        >>> algorithm = VERL({
        ...     "algorithm": {"adv_estimator": "grpo"},
        ...     "actor_rollout_ref": {
        ...         "model": {"path": "smollm2-135m-instruct"},
        ...         "rollout": {"n": 4},
        ...     },
        ...     "data": {"train_batch_size": 8},
        ... })
        >>> type(algorithm).__name__, algorithm.config.group_size
        ('GRPO', 4)
    """
    if trainer_cls is not None or daemon_cls is not None:
        raise ConfigurationError(
            "trainer_cls and daemon_cls replace parts of verl's own trainer, which does not run "
            "here: register an advantage or a loss instead (docs/algorithms/grpo.md)."
        )
    translation = translate(config)
    _tell(translation)
    quiet: Sequence[ProgressSink] | None = [] if translation.quiet else None
    return _algorithm(translation.algorithm)(
        progress=quiet if progress is None else progress, **translation.settings
    )


def _tell(translation: Translation) -> None:
    if translation.without_effect:
        logger.info(
            "keys of verl without effect here", extra={"keys": list(translation.without_effect)}
        )
    if translation.unknown:
        _warn(f"unknown keys are ignored: {', '.join(translation.unknown)}")
    for remark in translation.remarks:
        _warn(remark)


def _warn(message: str) -> None:
    warnings.warn(f"VERL: {message}.", UserWarning, stacklevel=4)


def _algorithm(kind: AlgorithmKind) -> type[PolicyOptimizer[Any]]:
    from agentlightning.algorithm.grpo import GRPO
    from agentlightning.algorithm.ppo import PPO
    from agentlightning.algorithm.reinforce_plus_plus import ReinforcePlusPlus
    from agentlightning.algorithm.rloo import RLOO

    classes: dict[AlgorithmKind, type[PolicyOptimizer[Any]]] = {
        "grpo": GRPO,
        "rloo": RLOO,
        "reinforce++": ReinforcePlusPlus,
        "ppo": PPO,
    }
    return classes[kind]
