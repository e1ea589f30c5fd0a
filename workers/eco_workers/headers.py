"""Names of the message headers that this system reads and writes. Producers and replay tools use them too."""

from typing import Final

TASK_ID: Final = "x-eco-task-id"
TASK_NAME: Final = "x-eco-task-name"
GENERATION: Final = "x-eco-generation"
"""Raised by each republish and each replay from the dead-letter queue; 0 when absent."""
ATTEMPTS: Final = "x-eco-attempts"
"""Attempts already used, carried along by a republished task."""
NOT_BEFORE: Final = "x-eco-not-before"
"""Unix seconds: a scheduled start that a republished task keeps."""
EXPIRES_AT: Final = "x-eco-expires-at"
"""Unix seconds: the end of the task's own life time."""
QUEUE: Final = "x-eco-queue"
"""The queue that a dead letter came from, where a replay puts it back."""
REASON: Final = "x-eco-reason"
FAILED_AT: Final = "x-eco-failed-at"
MESSAGE_ID: Final = "x-eco-message-id"
"""The original message id of a delivery that was no valid task."""
TRACEPARENT: Final = "traceparent"

DEAD_LETTER_QUEUE: Final = "q.dlq"
