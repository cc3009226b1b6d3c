"""Adapters are called like functions."""

from agentlightning.adapter import Adapter, OtelTraceAdapter, TraceAdapter


def test_calling_is_adapting():
    """Calling an adapter does what its `adapt` does, for every base."""

    class Count(Adapter[list[int], int]):
        def adapt(self, source, /):
            return len(source)

    assert Count()([1, 2]) == 2
    assert issubclass(TraceAdapter, Adapter)
    assert issubclass(OtelTraceAdapter, Adapter)
