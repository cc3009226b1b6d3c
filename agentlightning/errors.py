"""Every error this package raises on purpose, as one tree.

```
AgentLightningError
├── ConfigurationError (ValueError)
│   ├── ComponentNotFoundError
│   └── MissingExtraError (ImportError)
├── StoreError (RuntimeError)
│   ├── NotFoundError (ValueError)
│   ├── InvalidTransitionError (ValueError)
│   ├── ConflictError (ValueError)
│   ├── InvalidRequestError (ValueError)
│   ├── UnauthorizedError (PermissionError)
│   └── StoreUnavailableError (ConnectionError)
├── RolloutError (RuntimeError)
│   ├── AgentError
│   ├── AgentTimeoutError (TimeoutError)
│   ├── HarnessError
│   └── RewardError (ValueError)
├── GatewayError (RuntimeError)
│   ├── RequestError
│   │   ├── ContextLengthError
│   │   └── BudgetExceededError
│   ├── UpstreamError
│   └── GatewayPausedError
├── EngineError (RuntimeError)
│   └── EngineDeadError
├── TrainingError (RuntimeError)
│   ├── EmptyBatchError
│   ├── NonFiniteLossError
│   ├── ExplodingGradientError
│   └── CheckpointError
├── ExecutionError (RuntimeError)
└── TracerError (RuntimeError)
```

Each class also derives from the builtin that 0.3.0 raised in its place, so that callers written
for it keep working. `code` names the error on the wire; `retryable` says whether the same call
may succeed if made again.
"""

from typing import ClassVar


class AgentLightningError(Exception):
    """Base of every error raised on purpose by this package."""

    code: ClassVar[str] = "internal_error"
    """Stable identifier, used in HTTP bodies and attempt metadata."""

    retryable: ClassVar[bool] = False
    """Whether the same call may succeed when it is made again."""


class ConfigurationError(AgentLightningError, ValueError):
    """A setting, argument or component specification cannot work."""

    code = "configuration"


class ComponentNotFoundError(ConfigurationError):
    """A component name is neither registered nor importable."""

    code = "component_not_found"


class MissingExtraError(ConfigurationError, ImportError):
    """An optional dependency is not installed; the message names the extra."""

    code = "missing_extra"

    def __init__(self, library: str, extra: str) -> None:
        """Say which extra brings `library`."""
        super().__init__(
            f"{library} is not installed. Run: pip install 'agentlightning[{extra}]'",
        )
        self.library = library
        self.extra = extra

    def __reduce__(self) -> tuple[type["MissingExtraError"], tuple[str, str]]:
        return type(self), (self.library, self.extra)


class StoreError(AgentLightningError, RuntimeError):
    """A store could not do what was asked."""

    code = "store_error"


class NotFoundError(StoreError, ValueError):
    """A rollout, attempt, resource or worker id is unknown."""

    code = "not_found"


class InvalidTransitionError(StoreError, ValueError):
    """The state machine does not allow this change of status."""

    code = "invalid_transition"


class ConflictError(StoreError, ValueError):
    """The write collides with one that was there first."""

    code = "conflict"


class InvalidRequestError(StoreError, ValueError):
    """An argument of a store call is out of range or of the wrong shape."""

    code = "invalid_request"


class UnauthorizedError(StoreError, PermissionError):
    """The request carries no token that allows it."""

    code = "unauthorized"


class StoreUnavailableError(StoreError, ConnectionError):
    """The store cannot be reached at the moment."""

    code = "unavailable"
    retryable = True


class RolloutError(AgentLightningError, RuntimeError):
    """One rollout failed; recorded on its attempt, never fatal to the fleet."""

    code = "rollout_error"


class AgentError(RolloutError):
    """The agent's own code raised."""

    code = "agent_error"


class AgentTimeoutError(RolloutError, TimeoutError):
    """The agent ran longer than its rollout allows."""

    code = "timeout"


class HarnessError(RolloutError):
    """What surrounds the agent (resources, tracing, hooks) failed."""

    code = "harness_error"


class RewardError(RolloutError, ValueError):
    """The agent or the reward function returned something that is not a reward."""

    code = "reward_error"


class GatewayError(AgentLightningError, RuntimeError):
    """The gateway could not serve a model call."""

    code = "gateway_error"


class RequestError(GatewayError):
    """A model request is answered with a 4xx or 5xx in the OpenAI error shape."""

    code = "invalid_request_error"

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        error_code: str | None = None,
        param: str | None = None,
        error_type: str = "invalid_request_error",
    ) -> None:
        """Keep what the OpenAI error body needs beside the message."""
        super().__init__(message)
        self.status = status
        self.error_code = error_code
        self.param = param
        self.error_type = error_type

    def to_body(self) -> dict[str, dict[str, str | None]]:
        """Return the JSON body that OpenAI clients understand."""
        return {
            "error": {
                "message": str(self),
                "type": self.error_type,
                "param": self.param,
                "code": self.error_code,
            }
        }


class ContextLengthError(RequestError):
    """The prompt does not fit the model's context."""

    code = "context_length_exceeded"

    def __init__(self, message: str) -> None:
        """Use the status and code that clients test for."""
        super().__init__(
            message, status=400, error_code="context_length_exceeded", param="messages"
        )


class BudgetExceededError(RequestError):
    """A rollout's attempt has used up what it may ask of models."""

    code = "budget_exceeded"

    def __init__(self, message: str) -> None:
        """Use a status that clients do not answer by trying again."""
        super().__init__(message, status=400, error_code=self.code)


class UpstreamError(GatewayError):
    """A model server failed or could not be reached."""

    code = "upstream_error"
    retryable = True


class GatewayPausedError(GatewayError):
    """The gateway is paused for a weight update and will not wait longer."""

    code = "paused"
    retryable = True


class EngineError(AgentLightningError, RuntimeError):
    """The embedded inference engine could not do what was asked."""

    code = "engine_error"


class EngineDeadError(EngineError):
    """The engine's thread ended with an error; the cause is chained."""

    code = "engine_dead"


class TrainingError(AgentLightningError, RuntimeError):
    """A training step or its data is wrong."""

    code = "training_error"


class EmptyBatchError(TrainingError):
    """A batch holds nothing to learn from; the message says why."""

    code = "empty_batch"


class NonFiniteLossError(TrainingError):
    """The loss or a gradient is NaN or infinite."""

    code = "non_finite_loss"


class ExplodingGradientError(TrainingError):
    """A gradient is finite, but far larger than it ever was or may be."""

    code = "exploding_gradient"


class CheckpointError(TrainingError):
    """A checkpoint is missing, incomplete or does not fit the run."""

    code = "checkpoint"


class ExecutionError(AgentLightningError, RuntimeError):
    """A runner or algorithm process ended in a way that was not asked for."""

    code = "execution_error"


class TracerError(AgentLightningError, RuntimeError):
    """A tracer is used outside its life cycle."""

    code = "tracer_error"
