"""Tasks of the role `storage`: pictures that citizens upload."""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from eco_workers.errors import PictureError, TaskFailedError
from eco_workers.tasks.context import Context
from eco_workers.tasks.registry import RetryPolicy, task

PICTURE_BYTES_MAX: Final = 25 * 1024 * 1024


class UploadedPicture(BaseModel):
    """Payload of `image.store`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    key: Annotated[str, Field(min_length=1, max_length=1024, description="Key of the uploaded object in the bucket.")]


@task("image.store", queue="q.batch", time_limit_s=120, retry=RetryPolicy(first_s=5, cap_s=300))
async def store_image(context: Context, payload: UploadedPicture) -> dict[str, Any]:
    """Check an uploaded picture, store its web and thumbnail sizes under their content's keys, hand it to the model.

    Every effect is keyed: a repeat finds the objects there and emits the same message id.
    """
    # Deferred: the pool's processes import this module too and only they need Pillow.
    from eco_workers.storage.pictures import render  # noqa: PLC0415  # see above

    objects = await context.resources.objects()
    body = await objects.fetch(payload.key, bytes_max=PICTURE_BYTES_MAX)
    try:
        made = await context.in_process(render, body)
    except PictureError as error:
        raise TaskFailedError(f"picture {payload.key!r}: {error}") from None
    web_key = f"images/web/{made.web.sha256}.jpg"
    thumbnail_key = f"images/thumbnail/{made.thumbnail.sha256}.jpg"
    for key, rendition in ((web_key, made.web), (thumbnail_key, made.thumbnail)):
        await objects.store_once(key, rendition.body, content_type="image/jpeg")
    result = {
        "source": payload.key,
        "source_sha256": made.sha256,
        "format": made.format,
        "width": made.width,
        "height": made.height,
        "web": web_key,
        "thumbnail": thumbnail_key,
    }
    context.emit("ai.preprocess", {"image_task_id": context.task_id, **result}, routing_key="q.ai")
    return result
