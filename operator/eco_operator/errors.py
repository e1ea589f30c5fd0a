"""What can go wrong between the operator and the API server, and whether it is worth another try.

An error says operation, object, cause and hint. Whether to retry is in its type: `Transient` and `Conflict` go back on
the queue with a back-off; the others need somebody to change something, and the verdict says so.
"""

from typing import Final

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
