"""OpenTelemetry by the settings' group `tracing`. Nothing of it is imported unless it is switched on."""

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from uplift_settings.load import SettingsError
from uplift_settings.tree import TracingSettings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

TRACEPARENT = "traceparent"
"""Header and carrier key of W3C Trace Context: which span something is a part of."""
_STATE = "tracestate"


class HasHeaders(Protocol):
    """A request that is about to be sent."""

    @property
    def headers(self) -> MutableMapping[str, str]:
        """Its headers."""


class Tracing:
    """Makes spans and sends them in batches, from a thread of its own.

    Args:
        provider: OpenTelemetry's; see `start_tracing`.
        timeout: Seconds that the last batch gets at the end.
    """

    def __init__(self, provider: "TracerProvider", *, timeout: float) -> None:
        from opentelemetry import context, trace  # noqa: PLC0415 - see above
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415 - see above

        self._context, self._trace = context, trace
        self._provider = provider
        self._timeout = timeout
        self._words = TraceContextTextMapPropagator()
        self.tracer = provider.get_tracer("uplift")

    def served(self, name: str, headers: Mapping[str, str]) -> "Span":
        """A span of answering a request, continuing the trace that its headers name; the caller ends it."""
        return self.tracer.start_span(name, self._extract(headers), kind=self._trace.SpanKind.SERVER)

    def put(self, span: "Span", headers: MutableMapping[str, str]) -> None:
        """Make what is sent with these headers a part of a span."""
        self._words.inject(headers, self._trace.set_span_in_context(span))

    async def on_request(self, request: HasHeaders) -> None:
        """A hook of httpx: what is sent becomes a part of the span that the task is in, if it is in one."""
        self._words.inject(request.headers)

    @contextmanager
    def continued(self, traceparent: str) -> Iterator[None]:
        """Within it new spans are parts of the one that `traceparent` names; empty: of none."""
        token = self._context.attach(self._extract({TRACEPARENT: traceparent} if traceparent else {}))
        try:
            yield
        finally:
            self._context.detach(token)

    def close(self) -> None:
        """Send what is left; blocks for at most the timeout."""
        self._provider.force_flush(int(self._timeout * 1_000))
        self._provider.shutdown()

    def _extract(self, headers: Mapping[str, str]) -> "Context":
        # As plain values: the headers of a request are case-blind and may name one twice.
        named = {key: headers[key] for key in (TRACEPARENT, _STATE) if key in headers}
        return self._words.extract(named, self._context.Context())


def start_tracing(settings: TracingSettings, *, service: str, instance: str) -> Tracing | None:
    """Spans from now on, or None if `tracing.endpoint` is empty.

    Args:
        settings: Where spans go.
        service: `service.name` of all spans: what kind of process this is.
        instance: `service.instance.id`: which one.

    Raises:
        SettingsError: OpenTelemetry is not installed.
    """
    if not settings.endpoint:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - see above
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - see above
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - see above
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - see above
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio  # noqa: PLC0415 - see above
    except ImportError as error:
        raise SettingsError(
            f"tracing.endpoint is set, and OpenTelemetry is not installed ({error.name}): install the extra `tracing`,"
            " or empty the setting"
        ) from error
    names: dict[str, Any] = {"service.name": service, "service.instance.id": instance}
    provider = TracerProvider(
        sampler=ParentBasedTraceIdRatio(settings.ratio), resource=Resource.create(names), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.endpoint, timeout=settings.timeout)))
    return Tracing(provider, timeout=settings.timeout)
