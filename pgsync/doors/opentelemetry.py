"""OpenTelemetry: spans that follow a job from its enqueuing to each attempt, and metrics.

By OpenTelemetry's semantic conventions for messaging. Needs the extra ``otel``; without an SDK that
is set up it does nothing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from opentelemetry import metrics, propagate, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from pgsync.coordinator import AsyncCoordinator, Coordinator
from pgsync.errors import PgsyncError
from pgsync.queues import CancelJob, JobContext, NewJob, ReleaseJob
from pgsync.queues.carried import carried, carrying
from pgsync.queues.sealing import open_all
from pgsync.version import __version__

__all__ = ["instrument"]

_NAME = "pgsync"
# These end an attempt as the handler wants it.
_NO_ERRORS = (CancelJob, ReleaseJob)


def instrument(
    sync: Coordinator | AsyncCoordinator,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Trace the jobs of a coordinator: those it enqueues, and those its workers perform.

    Call it once, before the coordinator is used, in the processes that enqueue and in the workers.
    The providers default to OpenTelemetry's global ones. The trace travels with the job's
    arguments, so workers must have this version before anybody enqueues with it.
    """
    door = _Door(
        trace.get_tracer(_NAME, __version__, tracer_provider),
        metrics.get_meter(_NAME, __version__, meter_provider),
    )
    sync.tasks.use_enqueue(door.enqueuing)
    sync.tasks.around_enqueue.add(door.sending)
    sync.tasks.use(door.perform)
    sync.tasks.use(door.perform_async)


class _Door:
    def __init__(self, tracer: trace.Tracer, meter: metrics.Meter) -> None:
        self._tracer = tracer
        self._sent = meter.create_counter(
            "messaging.client.sent.messages", "{message}", "Jobs given to be enqueued."
        )
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages", "{message}", "Attempts at jobs that began."
        )
        self._sending = meter.create_histogram(
            "messaging.client.operation.duration", "s", "How long calls that enqueue jobs took."
        )
        self._duration = meter.create_histogram(
            "messaging.process.duration", "s", "How long handlers ran."
        )

    def enqueuing(self, job: NewJob) -> NewJob:
        """Middleware of enqueue: the span in which the job was made goes with it."""
        queue = job.options.queue
        facts = {**_facts(queue, job.task), "messaging.operation.name": "enqueue"}
        self._sent.add(1, facts)
        kind = {"messaging.operation.type": "create"}
        with self._tracer.start_as_current_span(
            f"enqueue {queue}", kind=SpanKind.PRODUCER, attributes={**facts, **kind}
        ):
            headers: dict[str, str] = {}
            propagate.inject(headers)
        return replace(job, args=carrying(job.args, headers))

    @contextmanager
    def sending(self, task: str | None, queue: str | None) -> Iterator[None]:
        """Around each call that enqueues, of one job or of many."""
        facts = {**_facts(queue, task), "messaging.operation.name": "enqueue"}
        facts["messaging.operation.type"] = "send"
        began = time.perf_counter()
        try:
            yield
        except BaseException as error:
            facts["error.type"] = type(error).__qualname__
            raise
        finally:
            self._sending.record(time.perf_counter() - began, facts)

    def perform(self, job: JobContext, call: Callable[[], Any]) -> Any:
        """Middleware of blocking handlers."""
        with self._performing(job):
            return call()

    async def perform_async(self, job: JobContext, call: Callable[[], Awaitable[Any]]) -> Any:
        """Middleware of coroutine handlers."""
        with self._performing(job):
            return await call()

    @contextmanager
    def _performing(self, context: JobContext) -> Iterator[None]:
        job = context.job
        facts = {**_facts(job.queue, job.task), "messaging.operation.name": "perform"}
        self._consumed.add(1, facts)
        began = time.perf_counter()
        with self._tracer.start_as_current_span(
            f"perform {job.queue}",
            context=propagate.extract(_headers(context)),
            kind=SpanKind.CONSUMER,
            attributes={
                **facts,
                "messaging.operation.type": "process",
                "messaging.message.id": str(job.id),
                "pgsync.attempt": job.attempt,
            },
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                if not isinstance(error, _NO_ERRORS):
                    facts["error.type"] = _fail(span, error)
                raise
            finally:
                self._duration.record(time.perf_counter() - began, facts)


def _facts(queue: str | None, task: str | None) -> dict[str, str]:
    facts = {
        "messaging.system": "pgsync",
        "messaging.destination.name": queue,
        "pgsync.task": task,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _headers(context: JobContext) -> dict[str, str]:
    try:
        return carried(open_all(context.job.args))
    except (PgsyncError, ValueError, RecursionError):
        return {}  # The handler's own attempt to read them says why.


def _fail(span: Span, error: BaseException) -> str:
    # Without the error's words, which may tell arguments; the job's row has them.
    name = type(error).__qualname__
    span.set_status(Status(StatusCode.ERROR, name))
    span.set_attribute("error.type", name)
    return name
