"""The no-op task as Celery runs it: acks late, no result, a quorum queue, the switches its documents name for speed."""

import os
from typing import Final

from celery import Celery
from kombu.entity import Exchange, Queue

from tests.benchmarks.peers.marks import mark

QUEUE: Final = "q.sched"

app = Celery("peers", broker=os.environ.get("ECO_BENCH_AMQP_URL", "amqp://"))
app.conf.update(
    # Declared by the benchmark, with the same arguments for everybody. Celery sees the type and adapts its prefetch.
    task_queues=[
        Queue(  # type: ignore[no-untyped-call]  # kombu has no types
            QUEUE,
            Exchange(""),  # type: ignore[no-untyped-call]  # kombu has no types
            routing_key=QUEUE,
            queue_arguments={"x-queue-type": "quorum"},
            no_declare=True,
        )
    ],
    task_default_queue=QUEUE,
    task_acks_late=True,
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    worker_prefetch_multiplier=int(os.environ.get("ECO_BENCH_PREFETCH_MULTIPLIER", "128")),
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
    worker_enable_remote_control=False,
    broker_native_delayed_delivery_queue_type="quorum",
    broker_connection_retry_on_startup=True,
    accept_content=["json"],
)


@app.task(name="bench.noop")  # type: ignore[untyped-decorator]  # celery has no types
def noop(*, n: int, sent: float, pad: str) -> None:
    """Leave a mark."""
    del n, pad
    mark(sent)
