"""An invoice is written down once, however often its task runs, and the mail about it goes out behind it."""

import hashlib
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, Field

from eco_workers.errors import TaskFailedError
from eco_workers.tasks.context import Context
from eco_workers.tasks.registry import RetryPolicy, task


class Line(BaseModel):
    """One position of an order."""

    text: Annotated[str, Field(min_length=1, max_length=200)]
    pieces: Annotated[int, Field(ge=1, le=1000)]
    price: Annotated[Decimal, Field(ge=0, decimal_places=2)]


class Order(BaseModel):
    """Payload of `invoice.write`. What does not fit fails the task at once, with the field's name."""

    customer: Annotated[str, Field(min_length=1, max_length=200)]
    lines: Annotated[list[Line], Field(min_length=1, max_length=500)]


@task("invoice.write", queue="q.batch", time_limit_s=60, retry=RetryPolicy(attempts_max=5, first_s=5))
async def write(context: Context, order: Order) -> dict[str, str]:
    """Write an invoice into the object store and have the customer told."""
    total = sum((line.pieces * line.price for line in order.lines), Decimal(0))
    if total == 0:
        # No further attempt would change it: dead letter at once, with this text as the reason.
        raise TaskFailedError("nothing to pay: an order of zero has no invoice")
    # CPU work goes to another process, so that heartbeats and other tasks go on.
    text = await context.in_process(render, order, total)

    async def store() -> str:
        key = f"invoices/{hashlib.sha256(text).hexdigest()}.txt"
        # Under a key made of the content a second attempt finds what the first has written.
        await (await context.resources.objects()).store_once(key, text, content_type="text/plain; charset=utf-8")
        return key

    # A finished step is not done again, even when the process dies right behind it.
    key = await context.step("store", store)
    # Goes out only once this task is durably completed, and then for certain.
    context.emit("mail.send", {"to": order.customer, "invoice": key}, routing_key="q.api")
    return {"key": key, "total": str(total)}


def render(order: Order, total: Decimal) -> bytes:
    """The invoice as text."""
    rows = [f"{line.pieces:>5} x {line.text:<40} {line.pieces * line.price:>12}" for line in order.lines]
    return "\n".join([f"Invoice for {order.customer}", "", *rows, f"{'Total':<48} {total:>12}", ""]).encode()
