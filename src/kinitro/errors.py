"""The error tree. A family says whose fault a failure is; only a policy's own fault counts against its score."""


def how_to_install(*extras: str) -> str:
    """The advice for missing extras. From a clone: the name is on no package index, and anyone could put it on one."""
    return f"Install it, in your clone: `uv sync` (all there is), or `pip install '.[{','.join(extras)}]'`."


class KinitroError(Exception):
    """Root of every error this project raises on purpose.

    `message` names the thing and the cause; `advice` is the next command or step. Both are written for a person.
    """

    def __init__(self, message: str, *, advice: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.message} {self.advice}" if self.advice else self.message


class PolicyError(KinitroError):
    """The submitted policy's fault: the episode is evaluated and counts as a failure.

    `code` is a short stable word for logs and tables, such as `too_slow` or `malformed_action`.
    """

    def __init__(self, message: str, *, code: str, advice: str | None = None) -> None:
        super().__init__(message, advice=advice)
        self.code = code


class InfrastructureError(KinitroError):
    """Our fault, shown by positive evidence: the task is tried again and never counts against a miner.

    `code` groups faults of one kind; an executor that meets three of one kind in a row stops fetching.
    """

    def __init__(self, message: str, *, code: str, advice: str | None = None) -> None:
        super().__init__(message, advice=advice)
        self.code = code


class EnvironmentFault(InfrastructureError):
    """A simulator or environment server failed."""


class ChainError(KinitroError):
    """The chain could not be read or written."""


class ChainUnreachable(ChainError):
    """No answer from the chain in time. Delays a cycle; never means "zero miners"."""


class NotRegistered(ChainError):
    """The hotkey is not registered on the subnet, or the subnet does not exist."""


class RateLimited(ChainError):
    """The chain asks to wait before the next write."""


class ChainRejected(ChainError):
    """The chain refused a write for good."""


class AmbiguousWrite(ChainError):
    """A write whose fate is unknown: look it up before trying again."""


class ConfigurationError(KinitroError):
    """A setting, flag, file or prerequisite is missing or wrong."""


class InvalidCommitment(KinitroError):
    """A commitment text that can't be read as a policy reference. Carries the reason shown to its owner."""


class DatabaseError(KinitroError):
    """The database can't be reached or is in the wrong state."""


class DatabaseUnreachable(DatabaseError):
    """No connection to the database."""


class SchemaMismatch(DatabaseError):
    """The schema is missing, older or newer than this version of the code."""


class ApiError(KinitroError):
    """The Kinitro API refused a request. `status_code` is the HTTP status."""

    def __init__(self, message: str, *, status_code: int, advice: str | None = None) -> None:
        super().__init__(message, advice=advice)
        self.status_code = status_code


class ExecutorQuarantined(KinitroError):
    """Other executors contradicted this one: it gets no tasks until an operator lifts that."""


class ApiUnreachable(KinitroError):
    """No answer from the Kinitro API in time."""
