"""Spans follow a job from enqueue to perform, and the messaging metrics are counted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from pgsync import Coordinator, InvalidArgument, ReleaseJob, Unique
from pgsync.doors.opentelemetry import instrument
from pgsync.queues.sealing import new_key


class Telemetry:
    """What an SDK with exporters in memory was told."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meters = MeterProvider([self._reader])

    def instrument(self, sync: Any) -> None:
        instrument(sync, tracer_provider=self.tracers, meter_provider=self.meters)

    def spans(self, name: str) -> list[Any]:
        return [span for span in self._spans.get_finished_spans() if span.name == name]

    def points(self, name: str) -> list[Any]:
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.mark.parametrize("coroutine", [False, True])
@pytest.mark.parametrize("encrypt", [False, True])
def test_a_trace_follows_a_job_to_its_handler(
    sync: Coordinator,
    telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
    coroutine: bool,
    encrypt: bool,
) -> None:
    monkeypatch.setenv("PGSYNC_ARGS_KEYS", new_key())
    telemetry.instrument(sync)
    tracer = telemetry.tracers.get_tracer("test")
    given: list[int] = []

    def blocking(n: int) -> None:
        with tracer.start_as_current_span("inside"):
            given.append(n)

    async def waiting(n: int) -> None:
        await asyncio.sleep(0)
        blocking(n)

    task: Any = sync.task(name="work", queue="q", encrypt=encrypt)(
        waiting if coroutine else blocking
    )
    with tracer.start_as_current_span("request"):
        job = task.enqueue(n=1).id
    assert sync.run_worker(queues=["q"], drain=True).completed == 1
    assert given == [1]
    (request,) = telemetry.spans("request")
    (enqueued,) = telemetry.spans("enqueue q")
    (performed,) = telemetry.spans("perform q")
    (inside,) = telemetry.spans("inside")
    assert enqueued.parent.span_id == request.context.span_id
    assert performed.parent.span_id == enqueued.context.span_id
    assert inside.parent.span_id == performed.context.span_id
    assert inside.context.trace_id == request.context.trace_id
    assert (enqueued.kind, performed.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert performed.attributes["messaging.message.id"] == str(job)
    assert performed.attributes["messaging.destination.name"] == "q"
    assert performed.status.status_code is StatusCode.UNSET


def test_each_attempt_is_a_span_and_an_error_names_its_class_alone(
    sync: Coordinator, telemetry: Telemetry
) -> None:
    telemetry.instrument(sync)

    def fail(secret: str) -> None:
        raise ValueError(secret)

    sync.task(name="fail", max_attempts=1)(fail).enqueue(secret="sesame")
    released: list[int] = []

    @sync.task(name="later")
    def later() -> None:
        released.append(1)
        if len(released) == 1:
            raise ReleaseJob

    later.enqueue()
    sync.run_worker(drain=True)
    spans = {
        (span.attributes["pgsync.task"], span.status.status_code, span.status.description)
        for span in telemetry.spans("perform default")
    }
    assert spans == {
        ("fail", StatusCode.ERROR, "ValueError"),
        ("later", StatusCode.UNSET, None),
    }
    assert "sesame" not in "".join(span.to_json() for span in telemetry.spans("perform default"))


def test_the_messaging_metrics_are_counted(sync: Coordinator, telemetry: Telemetry) -> None:
    telemetry.instrument(sync)
    task: Any = sync.task(name="work", max_attempts=1)(lambda n: 1 // n)
    task.enqueue_many([{"n": n} for n in range(3)])
    sync.run_worker(drain=True)
    assert sum(each.value for each in telemetry.points("messaging.client.sent.messages")) == 3
    assert sum(each.value for each in telemetry.points("messaging.client.consumed.messages")) == 3
    durations = telemetry.points("messaging.process.duration")
    counts = {each.attributes.get("error.type"): each.count for each in durations}
    assert counts == {None: 2, "ZeroDivisionError": 1}


def test_each_call_that_enqueues_is_timed_once(face: Any, telemetry: Telemetry) -> None:
    telemetry.instrument(face)
    first: Any = face.task(name="first", queue="a")(lambda: None)
    second: Any = face.task(name="second", queue="b")(lambda n: None)
    first.enqueue()
    first.options(unique_key="once").enqueue()
    second.enqueue_many([{"n": n} for n in range(3)])
    face.batch("both", [first.job(), second.job(n=1)])
    with pytest.raises(InvalidArgument):
        second.options(after=[2**62]).enqueue(n=1)
    timed = {
        (
            each.attributes.get("messaging.destination.name"),
            each.attributes.get("pgsync.task"),
            each.attributes.get("error.type"),
        ): each.count
        for each in telemetry.points("messaging.client.operation.duration")
    }
    assert timed == {
        ("a", "first", None): 2,
        ("b", "second", None): 1,
        (None, None, None): 1,
        ("b", "second", "InvalidArgument"): 1,
    }


def test_the_lock_and_handler_of_an_operation_know_nothing_of_it(
    sync: Coordinator, telemetry: Telemetry, database: Any
) -> None:
    telemetry.instrument(sync)
    given: list[int] = []

    @sync.operation("refresh", lock="refresh:{page}", ttl=30)
    def refresh(op: Any, page: int) -> None:
        given.append(page)

    refresh.enqueue(page=7)
    assert sync.run_worker(drain=True).completed == 1
    assert given == [7]
    seen = database.execute("SELECT key, args FROM pgsync.operations").fetchall()
    assert seen == [("refresh:7", {"page": 7})]
    assert len(telemetry.spans("perform default")) == 1


def test_a_job_is_unique_by_its_arguments_whatever_its_trace(
    sync: Coordinator, telemetry: Telemetry, database: Any
) -> None:
    telemetry.instrument(sync)
    task: Any = sync.task(name="work", unique=Unique())(lambda n: None)
    assert task.enqueue(n=1).id == task.enqueue(n=1).id
    assert task.enqueue(n=2).id != task.enqueue(n=1).id
    assert database.execute("SELECT count(*) FROM pgsync.jobs").fetchone() == (2,)
