"""
Every error of the library, in one tree.

    ReliableTasksError
    ├── ConfigurationError       options that cannot work; change the declaration or the settings
    ├── UnserializableArguments  arguments that no key can be made of; pass an id instead
    ├── IdempotencyKeyReused     one key, two different payloads; mend the caller
    ├── DuplicateJob             on_duplicate="raise": an equal job is queued or running; let it be
    ├── AlreadyRunning           `once`: another execution holds the lease; try later
    ├── AlreadyDone              `once`: the outcome is already there; use it
    ├── LeaseLost                another execution may have taken over; stop
    ├── ResultNotKept            done, but its result was too large to be stored
    ├── RetriesExhausted         `retry=` accepts none of the results; look at the server
    ├── Quarantined              killed its process too often; an operator must look
    ├── StoreUnavailable         the store did not answer; nothing is known
    └── InheritedConnection      a forked process uses a connection of its parent; mend the fork

Each passes all its arguments to `Exception`, so that pickle and Celery's JSON
results can rebuild it.
"""

from __future__ import annotations

__all__ = (
    "AlreadyDone",
    "AlreadyRunning",
    "ConfigurationError",
    "DuplicateJob",
    "IdempotencyKeyReused",
    "InheritedConnection",
    "LeaseLost",
    "Quarantined",
    "ReliableTasksError",
    "ResultNotKept",
    "RetriesExhausted",
    "StoreUnavailable",
    "UnserializableArguments",
)


class ReliableTasksError(Exception):
    """Base of every error that this library raises."""


class ConfigurationError(ReliableTasksError):
    """An option or a set of options cannot work; raised at declaration or worker start."""


class UnserializableArguments(ReliableTasksError):
    """
    An argument has no canonical form, so no idempotency key can be made of it.

    Args:
        argument: Where the value stands, for example ``order`` or ``order['lines'][0]``.
        kind: The type that came, for example ``shop.models.Order``.
    """

    def __init__(self, argument: str, kind: str) -> None:
        super().__init__(argument, kind)
        self.argument, self.kind = argument, kind

    def __str__(self) -> str:
        return (
            f"argument {self.argument} is a {self.kind}, which does not survive a message "
            "unchanged, so no idempotency key can be made of it. Pass an id (for example the "
            "primary key), a string, a number, or a list or mapping of these, and look the "
            "object up inside the task."
        )


class IdempotencyKeyReused(ReliableTasksError):
    """
    Another job used the same key with other values of the arguments in ``same_payload``.

    Args:
        key: The record's key.
    """

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return (
            f"the idempotency key of {self.key!r} was used before with other arguments. "
            "One key must always mean the same call: give this call a key of its own, "
            "or leave the arguments that may differ out of same_payload."
        )


class DuplicateJob(ReliableTasksError):
    """
    A unique task was not published, for an equal job is queued, waiting, running or kept.

    Args:
        key: The record's key.
        job: Id of the job that the call is a duplicate of.
    """

    def __init__(self, key: str, job: str) -> None:
        super().__init__(key, job)
        self.key, self.job = key, job

    def __str__(self) -> str:
        return (
            f"nothing was published: job {self.job!r} of {self.key!r} is queued, running or done "
            "not long ago. Its result is the answer to this call too; with on_duplicate='return' "
            "apply_async returns it."
        )


class AlreadyRunning(ReliableTasksError):
    """
    Another execution of the key holds a live lease.

    Args:
        key: The record's key; from `once` the key that was given.
        remaining: Seconds until its lease ends unless it is renewed.
    """

    def __init__(self, key: str, remaining: float) -> None:
        super().__init__(key, remaining)
        self.key, self.remaining = key, remaining

    def __str__(self) -> str:
        return (
            f"{self.key!r} is running elsewhere; its lease ends in {self.remaining:g} s unless "
            "it is renewed. Try again later."
        )


class AlreadyDone(ReliableTasksError):
    """
    The key is done; nothing was run.

    Args:
        key: The record's key; from `once` the key that was given.
        result: What the finished execution stored, or None.
    """

    def __init__(self, key: str, result: object = None) -> None:
        super().__init__(key, result)
        self.key, self.result = key, result

    def __str__(self) -> str:
        return f"{self.key!r} is already done; its stored result is in the `result` attribute."


class LeaseLost(ReliableTasksError):
    """
    The lease ran out before the task finished; its outcome will not be stored.

    Args:
        key: The record's key.
        lease: Length of the lease in seconds.
        silent_for: Seconds since the lease was last renewed.
    """

    def __init__(self, key: str, lease: float, silent_for: float) -> None:
        super().__init__(key, lease, silent_for)
        self.key, self.lease, self.silent_for = key, lease, silent_for

    def __str__(self) -> str:
        return (
            f"lost the lease on {self.key!r}: it lasts {self.lease:g} s and was not renewed for "
            f"{self.silent_for:.1f} s. Another execution may have taken over, and the outcome of "
            "this one will not be stored. Lengthen lease_seconds if the process can pause that "
            "long, or max_run if the job may take that long."
        )


class ResultNotKept(ReliableTasksError):
    """
    The job is done, but its result was not stored, so it cannot be replayed.

    Args:
        key: The record's key.
    """

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return (
            f"{self.key!r} is done and will not run again, but its result was larger than "
            "max_result_bytes or had no serialized form, so it was not stored. Return an id or a "
            "path instead of the data, or raise max_result_bytes."
        )


class RetriesExhausted(ReliableTasksError):
    """
    Every attempt returned what was to be tried again, and there is no further one.

    Only where `retry=` looks at results; an error that is given up is raised as it is.

    Args:
        attempts: How many there were.
        elapsed: Seconds from the begin of the first to the end of the last.
    """

    def __init__(self, attempts: int, elapsed: float) -> None:
        super().__init__(attempts, elapsed)
        self.attempts, self.elapsed = attempts, elapsed

    def __str__(self) -> str:
        return (
            f"{self.attempts} attempts in {self.elapsed:.1f} s ended without an error, but each "
            "with a result that retry= wants to try again. See what the server answers, or allow "
            "more attempts or time."
        )


class Quarantined(ReliableTasksError):
    """
    The job ended its process too often and is run no more; its message is kept.

    Args:
        key: The record's key.
        crashes: How many executions ended without an outcome.
    """

    def __init__(self, key: str, crashes: int) -> None:
        super().__init__(key, crashes)
        self.key, self.crashes = key, crashes

    def __str__(self) -> str:
        executions = "execution" if self.crashes == 1 else "executions"
        return (
            f"{self.key!r} is quarantined: {self.crashes} {executions} ended without an outcome. "
            "The whole message is kept among the dead letters. Find what kills the process "
            "(memory, a native crash, a kill signal), then let it run again: "
            "`celery reliable dead replay`."
        )


class StoreUnavailable(ReliableTasksError):
    """
    The store did not answer, so the operation may or may not have been applied.

    Repeating the same operation is safe.

    Args:
        operation: Which operation it was, for example ``claim``.
        reason: What happened, without credentials.
    """

    def __init__(self, operation: str, reason: str) -> None:
        super().__init__(operation, reason)
        self.operation, self.reason = operation, reason

    def __str__(self) -> str:
        return (
            f"the store did not answer {self.operation!r}: {self.reason}. Check that the server "
            "of store_url runs and can be reached from here."
        )


class InheritedConnection(ReliableTasksError):
    """
    A connection is used in a process that did not open it; nothing was sent over it.

    Args:
        opened_in: Id of the process that opened it.
        used_in: Id of the process that uses it.
    """

    def __init__(self, opened_in: int, used_in: int) -> None:
        super().__init__(opened_in, used_in)
        self.opened_in, self.used_in = opened_in, used_in

    def __str__(self) -> str:
        return (
            f"process {self.opened_in} opened this connection and process {self.used_in}, which "
            "was forked from it, uses it. Two processes on one connection get each other's "
            "answers, so nothing was sent. Open connections after the fork; call "
            "engine.dispose(close=False) first thing in a process that you fork yourself."
        )
