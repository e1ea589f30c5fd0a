"""What can go wrong between the operator and the API server, and whether it is worth another try.

An error says operation, object, cause and hint. Whether to retry is in its type: `Transient` and `Conflict` go back on
the queue with a back-off; the others need somebody to change something, and the verdict says so.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

RETRY_AFTER_S_MAX: Final = 300.0
NOT_EXPANDABLE: Final = "the storageclass that provisions the pvc must support resize"
"""How the API server refuses a claim that may not grow. Its admission plugin answers 403, as a missing right does."""


class OperatorError(Exception):
    """Something the operator understands went wrong."""


class ConfigurationError(OperatorError):
    """The operator's own settings, credentials or rights do not let it start."""


class LeaseLostError(OperatorError):
    """Another process leads, or the lease could not be renewed in time: this one must stop at once."""


class CommandError(OperatorError):
    """A worker did not do what it was told; the next look tells it again if that is still wanted."""


class ApiError(OperatorError):
    """A request that the API server, or the way to it, did not answer with success."""

    def __init__(self, operation: str, target: str, *, status: int = 0, reason: str = "", message: str = "") -> None:
        super().__init__(f"{operation} {target}: {status or 'no answer'} {reason} {message}".strip())
        self.operation = operation
        self.target = target
        self.status = status
        self.reason = reason
        self.message = message


class TransientError(ApiError):
    """No answer, a time-out, 429 or 5xx: the same request may succeed later."""

    retry_after_s: float | None = None


class ConflictError(ApiError):
    """409: the object is another than the one decided upon, or somebody else owns a field."""


class NotFoundError(ApiError):
    """404: no such object, or no such kind."""


class ExpiredError(ApiError):
    """410: the continue token or resource version is too old; list again from the beginning."""


class DeniedError(ApiError):
    """401 or 403: a right is missing, a quota is used up, a claim may not grow, or the namespace is being deleted."""

    @property
    def is_namespace_going(self) -> bool:
        """Whether the refusal only says that the namespace is being deleted."""
        return "is being terminated" in self.message or "NamespaceTerminating" in self.message

    @property
    def is_not_expandable(self) -> bool:
        """Whether a claim may not grow, its class being what it is: the same request would be refused for ever."""
        return NOT_EXPANDABLE in self.message


class RejectedError(ApiError):
    """400, 413, 415 or 422: the server will never take this request as it is."""


_BY_STATUS: Final[Mapping[int, type[ApiError]]] = {
    401: DeniedError,
    403: DeniedError,
    404: NotFoundError,
    409: ConflictError,
    410: ExpiredError,
}


def of_answer(operation: str, target: str, status: int, content: bytes, retry_after: str | None) -> ApiError:
    """The error of an answer that is no success; `retry_after` is its header of that name."""
    try:
        failure = of_status(operation, target, status, msgspec.json.decode(content))
    except (msgspec.DecodeError, AttributeError):
        failure = of_status(operation, target, status, {"message": content[:200].decode(errors="replace")})
    if isinstance(failure, TransientError) and retry_after and retry_after.isdigit():
        failure.retry_after_s = min(float(retry_after), RETRY_AFTER_S_MAX)
    return failure


def of_status(operation: str, target: str, status: int, told: Mapping[str, Any]) -> ApiError:
    """The error that a `Status` of the API server tells of."""
    fallback = TransientError if status in {408, 429} or status >= 500 else RejectedError
    reason, message = str(told.get("reason", "")), str(told.get("message", ""))
    return _BY_STATUS.get(status, fallback)(operation, target, status=status, reason=reason, message=message)
