"""The metrics interface, and the rules of registration that every back end shares.

Nothing here keeps or shows a value; see `console` and `prometheus` for that.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from agentlightning.errors import ConfigurationError

MetricKind = Literal["counter", "histogram"]

LabelDict = dict[str, str]
"""Label names to values, as a writer gives them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """What a metric was registered as."""

    kind: MetricKind
    name: str
    label_names: tuple[str, ...]
    buckets: tuple[float, ...] | None = None
    """Upper bounds of a histogram; None leaves them to the back end."""

    group_level: int | None = None
    """How many of the labels a back end that groups keeps apart; None means none of them."""

    def label_values(self, labels: Mapping[str, str] | None) -> tuple[str, ...]:
        """Return the values of this metric's labels, in the order of registration.

        Labels that were not registered are ignored, as in 0.3.0.

        Raises:
            ConfigurationError: A registered label is missing.
        """
        given = labels or {}
        missing = [name for name in self.label_names if name not in given]
        if missing:
            raise ConfigurationError(
                f"The {self.kind} {self.name!r} needs the label {missing[0]!r}: give all of "
                f"{list(self.label_names)}."
            )
        return tuple(given[name] for name in self.label_names)


class MetricRegistry:
    """The metrics one back end knows; safe to use from several threads."""

    def __init__(self) -> None:
        self._specs: dict[str, MetricSpec] = {}
        self._lock = threading.Lock()

    def register(self, spec: MetricSpec) -> bool:
        """Remember `spec`; registering the same thing again does nothing.

        Returns:
            Whether the metric is new.

        Raises:
            ConfigurationError: The name is taken by a metric of another kind, with other labels
                or with other buckets.
        """
        with self._lock:
            known = self._specs.setdefault(spec.name, spec)
        if known is spec:
            return True
        before = (known.kind, known.label_names, known.buckets)
        now = (spec.kind, spec.label_names, spec.buckets)
        if before != now:
            raise ConfigurationError(
                f"The metric {spec.name!r} is registered as {before} (kind, labels, buckets) and "
                f"cannot become {now}: use another name."
            )
        return False

    def get(self, kind: MetricKind, name: str) -> MetricSpec:
        """Return the registered metric.

        Raises:
            ConfigurationError: No metric of this kind has this name.
        """
        spec = self._specs.get(name)
        if spec is None or spec.kind != kind:
            raise ConfigurationError(
                f"The {kind} {name!r} is not registered: call register_{kind} first."
            )
        return spec

    def find(self, name: str) -> MetricSpec:
        """Return the metric of this name, which must have been registered."""
        return self._specs[name]


class MetricsBackend:
    """Where counters and histograms go; derive from it for a sink of your own.

    Registration is synchronous and idempotent. Writes are coroutines that may be awaited from
    any event loop and never block on I/O.
    """

    def has_prometheus(self) -> bool:
        """Return whether Prometheus can scrape what is written here."""
        return False

    def register_counter(
        self,
        name: str,
        label_names: Sequence[str] | None = None,
        group_level: int | None = None,
    ) -> None:
        """Make a counter known.

        Args:
            name: Dotted name.
            label_names: Labels that every increment must carry.
            group_level: How many of the labels a grouping back end keeps apart.

        Raises:
            ConfigurationError: The name is taken by another kind of metric or other labels.
        """
        raise NotImplementedError

    def register_histogram(
        self,
        name: str,
        label_names: Sequence[str] | None = None,
        buckets: Sequence[float] | None = None,
        group_level: int | None = None,
    ) -> None:
        """Make a histogram known; `buckets` are upper bounds, in the metric's unit.

        Raises:
            ConfigurationError: The name is taken by another kind, other labels or buckets.
        """
        raise NotImplementedError

    async def inc_counter(
        self, name: str, amount: float = 1.0, labels: LabelDict | None = None
    ) -> None:
        """Add `amount` to a counter.

        Raises:
            ConfigurationError: The counter is not registered, or a label is missing.
        """
        raise NotImplementedError

    async def observe_histogram(
        self, name: str, value: float, labels: LabelDict | None = None
    ) -> None:
        """Record one observation.

        Raises:
            ConfigurationError: The histogram is not registered, or a label is missing.
        """
        raise NotImplementedError


class MultiMetricsBackend(MetricsBackend):
    """Writes everything to several back ends, in order."""

    def __init__(self, backends: Sequence[MetricsBackend]) -> None:
        if not backends:
            raise ConfigurationError("MultiMetricsBackend needs at least one back end.")
        self._backends = tuple(backends)

    def has_prometheus(self) -> bool:
        return any(backend.has_prometheus() for backend in self._backends)

    def register_counter(
        self,
        name: str,
        label_names: Sequence[str] | None = None,
        group_level: int | None = None,
    ) -> None:
        for backend in self._backends:
            backend.register_counter(name, label_names, group_level)

    def register_histogram(
        self,
        name: str,
        label_names: Sequence[str] | None = None,
        buckets: Sequence[float] | None = None,
        group_level: int | None = None,
    ) -> None:
        for backend in self._backends:
            backend.register_histogram(name, label_names, buckets, group_level)

    async def inc_counter(
        self, name: str, amount: float = 1.0, labels: LabelDict | None = None
    ) -> None:
        for backend in self._backends:
            await backend.inc_counter(name, amount, labels)

    async def observe_histogram(
        self, name: str, value: float, labels: LabelDict | None = None
    ) -> None:
        for backend in self._backends:
            await backend.observe_histogram(name, value, labels)
