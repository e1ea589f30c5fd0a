"""The lab's errors. Each says what was attempted, on what, why it failed, and what to do about it."""


class LabError(Exception):
    """The lab could not do what it was asked to."""

    def __init__(self, operation: str, cause: str, *, hint: str = "") -> None:
        self.operation = operation
        self.cause = cause
        self.hint = hint
        super().__init__(f"{operation}: {cause}" + (f"\n  what to do: {hint}" if hint else ""))


class MissingError(LabError):
    """A right, kernel feature, program or registry that the lab needs is not there."""


class BusyError(LabError):
    """Another `eco-lab` changes the lab right now."""


class NotReadyError(LabError):
    """A part was started and did not become ready within its time."""


class CommandError(LabError):
    """A program that the lab ran ended with an error."""
