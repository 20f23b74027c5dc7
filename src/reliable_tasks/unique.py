"""`UniqueTask`: at most one of equal jobs is queued or running."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, ClassVar

from celery.result import AsyncResult
from celery.utils import uuid
from celery.utils.time import maybe_iso8601, maybe_make_aware

from reliable_tasks.asked import Asked, AwaitedHeaders, NoConnection, Superfluous
from reliable_tasks.core.defaults import NAMES
from reliable_tasks.core.durations import Seconds
from reliable_tasks.core.header import NAME, Header
from reliable_tasks.core.keys import payload_digest, record_key
from reliable_tasks.core.records import Confirmation, Duplicate, Reservation, Reserved
from reliable_tasks.core.settings import Options
from reliable_tasks.core.uniqueness import Uniqueness, in_force, read
from reliable_tasks.errors import ConfigurationError, DuplicateJob, StoreUnavailable
from reliable_tasks.events import tell
from reliable_tasks.message import Event
from reliable_tasks.periodic import Ticket, current_firing, fire, ticket_of, watch_beats
from reliable_tasks.publish import countdown_of
from reliable_tasks.task import IdempotentTask

__all__ = ("Plan", "UniqueResult", "UniqueTask")

logger = logging.getLogger("reliable_tasks")


class UniqueResult(AsyncResult):
    """
    The result of a unique task's job, as `celery.result.AsyncResult`.

    Attributes:
        duplicate: Whether the call that returned it published nothing, for this job was there.
    """

    duplicate: bool = False
    record: tuple[UniqueTask, str] | None = None

    def revoke(self, *args: Any, **options: Any) -> None:
        """
        Revoke the job, as Celery does, and free its key at once unless it runs.

        No copy of a job that does not run yet, or waits for its retry, runs after that.
        """
        super().revoke(*args, **options)
        if self.record is not None:
            task, key = self.record
            _end(task, key, self.id)


@dataclass(frozen=True, slots=True)
class Plan:
    """
    One call of a unique task on its way to the broker.

    Args:
        task_id: The message's id.
        call: What is to be published, as `IdempotentTask.apply_async` takes it.
        key: The record.
        header: The message's own header.
        reservation: What to ask the store before; None: nothing, for the message is another one of
            the job that runs here, or is never published.
        reserved_ms: How long the message may wait in the queue without losing its place.
        hold_ms: How long equal calls are duplicates, however soon it is done.
        suppressible: Whether nothing need be published if the call is a duplicate: nothing hangs
            on its message, and nobody knew its id before.
    """

    task_id: str
    call: Mapping[str, Any]
    key: str = ""
    header: Header | None = None
    reservation: Reservation | None = None
    reserved_ms: int = 0
    hold_ms: int = 0
    suppressible: bool = False

    @property
    def ask(self) -> tuple[str, Reservation] | None:
        """The question for `Store.reserve`."""
        return None if self.reservation is None else (self.key, self.reservation)

    def confirmation(self, answer: Reserved | Duplicate | None) -> tuple[str, Confirmation] | None:
        """Return the word for `Store.confirm` once the broker has the message."""
        if not isinstance(answer, Reserved):
            return None
        keep_ms = self._delay_ms(answer) + self.reserved_ms
        at_once = self.hold_ms > 0 or answer.turn > 0
        return self.key, Confirmation(self.task_id, keep_ms, self.hold_ms, at_once)

    @property
    def sets_its_time(self) -> bool:
        """Whether the store's answer may say when the message is due."""
        return self.reservation is not None and self.reservation.latest

    def is_superfluous(self, answer: Reserved | Duplicate | None) -> bool:
        """Whether nothing need be published after the store's *answer*."""
        return self.suppressible and isinstance(answer, Duplicate)

    def message(self, answer: Reserved | Duplicate | None, app: Any) -> dict[str, Any]:
        """Return the call with what the store's *answer* adds to its message, as *app* sends it."""
        if self.header is None:
            return dict(self.call)
        delay_ms = self._delay_ms(answer)
        delayed = {"countdown": countdown_of(app, delay_ms / 1_000)} if delay_ms else {}
        return {**self.call, "headers": self.headers(answer), **delayed}

    def headers(self, answer: Reserved | Duplicate | None) -> dict[str, Any]:
        """Return the headers of the message, its own among them, after the store's *answer*."""
        given = dict(self.call["headers"] or {})
        if self.header is None:
            return given
        return {**given, NAME: replace(self.header, turn=self._turn(answer)).encode()}

    def _delay_ms(self, answer: Reserved | Duplicate | None) -> int:
        """How long later calls may put it off; the delay of a call's own is in its options."""
        return answer.delay_ms if self.sets_its_time and isinstance(answer, Reserved) else 0

    def _turn(self, answer: Reserved | Duplicate | None) -> int:
        """Its place among the calls of the key, or when a call that none replaces is due."""
        if answer is None or self.reservation is None:
            return 0
        if not self.reservation.latest:
            return -(answer.called_us + 1_000 * self.reservation.delay_ms)
        return answer.turn if self.suppressible and isinstance(answer, Reserved) else 0


@dataclass(frozen=True, slots=True)
class Told:
    """The job that a duplicate is told of."""

    task: UniqueTask
    job: str
    key: str


class UniqueTask(IdempotentTask):
    """
    A task of which at most one of equal jobs is queued or running.

    Calls are equal if their arguments are, or those that `idempotency_key` names. While an equal
    job is queued, waits for its ETA or its retry, or runs, a call publishes nothing and returns
    the `UniqueResult` of that job. A call that others wait for (in a chain, group or chord, with a
    callback, or with a task id of its own) is published all the same; its job waits for the other
    and then has its result. What else reaches a worker is guarded as an `IdempotentTask` is.

    Use it as a base: ``@app.task(base=UniqueTask)``. It takes the options of `IdempotentTask` but
    ``retention``, and these. Durations are seconds or a `timedelta`.

    Attributes:
        unique_for: How long after success an equal call is still a duplicate. 0: not at all.
        on_duplicate: ``"return"`` the other job's result, or ``"raise"`` `DuplicateJob`.
        publish_grace: How long a producer that dies in the middle may block its key. 30 s.
        reserved_for: How long a job that is due and not begun blocks its key, unless it expires
            before. 1 h.
        keep_last: A call while an equal job runs causes one more run afterwards, with the
            arguments of the last call.
        debounce: Run so long after the last call, with its arguments; 0: off.
        debounce_limit: But no later than so long after the first call; 0: no limit.
        throttle: For so long after a call, equal calls are duplicates; 0: off.
        periodic: What `celery beat` publishes is told apart by schedule entry and due time, so that
            any number of beats fire each entry once. Other calls are as without it.

    Raises:
        ConfigurationError: At declaration, if the options cannot work.
    """

    abstract = True
    option_names = NAMES

    unique_for: ClassVar[Seconds | None] = None
    on_duplicate: ClassVar[str | None] = None
    publish_grace: ClassVar[Seconds | None] = None
    reserved_for: ClassVar[Seconds | None] = None
    keep_last: ClassVar[bool | None] = None
    debounce: ClassVar[Seconds | None] = None
    debounce_limit: ClassVar[Seconds | None] = None
    throttle: ClassVar[Seconds | None] = None
    periodic: ClassVar[bool | None] = None

    # --- options --------------------------------------------------------------------------

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Learn what beats of this process fire."""
        super().on_bound(app)
        watch_beats()

    @classmethod
    def read_options(cls, given: Mapping[str, Any]) -> Options:
        """Check *given* options as a set."""
        return read(given)[1]

    @classmethod
    def with_settings(
        cls, declared: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the options that are *declared*, and those of the app's *settings* that suit."""
        return in_force(declared, settings)

    @cached_property
    def uniqueness(self) -> Uniqueness:
        """The options of publishing in force."""
        return read(self.options_in_force())[0]

    @cached_property
    def guard_options(self) -> Options:
        """The options in force; the identity is all arguments unless the task names some."""
        options = super().guard_options
        if options.idempotency_key is None:
            options = replace(options, idempotency_key=tuple(self.call_signature.parameters))
        if self.uniqueness.latest_wins:  # a key of one call's own compares nothing either
            options = replace(options, same_payload=())
        return options

    @property
    def retry_grace_ms(self) -> int:
        """How long a retry that is due keeps its key."""
        return max(super().retry_grace_ms, self.uniqueness.reserved_for_ms)

    @property
    def requeue_grace_ms(self) -> int:
        """How long a message that goes back to the queue keeps its key."""
        return self.uniqueness.grace_ms

    # --- publishing -----------------------------------------------------------------------

    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> Any:
        """
        Publish a message unless an equal job is queued or running.

        Takes what `IdempotentTask.apply_async` takes.

        Returns:
            A `UniqueResult`: of the new job, or with ``duplicate`` of the job that was there.

        Raises:
            DuplicateJob: An equal job was there, and ``on_duplicate="raise"``.
            UnserializableArguments: A key cannot be made of the arguments.
            ConfigurationError: No store can be found in the settings, or the call has a time of
                its own and the task a ``debounce``.
        """
        call = {**options, "link": link, "link_error": link_error, "shadow": shadow}
        ticket = None if task_id is not None else self._ticket()
        if ticket is not None:
            return self._fire(ticket, {**call, "args": args, "kwargs": kwargs}, producer)
        plan = self.plan(args, kwargs, task_id, **call)
        asked = Asked(self.records, plan.ask)
        try:
            result = self._publish_meanwhile(plan, asked, producer)
        except Exception:
            asked.take_back()
            raise
        self._confirm(plan, asked.answer)
        return result

    def plan(
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        *,
        idempotency_key: str | None = None,
        headers: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Plan:
        """
        Make of one call what the store and the broker are to be told. Asks neither.

        Takes what `apply_async` takes, and raises the same `UnserializableArguments` and
        `ConfigurationError`.
        """
        call = {**options, "args": args, "kwargs": kwargs, "task_id": task_id or uuid()}
        call["headers"] = headers
        if self._is_own(task_id, options) or self.app.conf.task_always_eager:
            return Plan(call["task_id"], {**call, "idempotency_key": idempotency_key})
        header = self._header_for(
            args, kwargs, call["task_id"], idempotency_key, headers, options, eager=False
        )
        suppressible = task_id is None and not _is_awaited(options)
        return Plan(
            call["task_id"],
            call,
            record_key(self.record_prefix, self.name, header.key_digest or ""),
            header,
            self._reservation(call, header.payload_digest or "", suppressible=suppressible),
            self._reserved_ms(options),
            self.uniqueness.throttle_ms,
            suppressible,
        )

    def publish(
        self, plan: Plan, answer: Reserved | Duplicate | None, *, producer: Any = None
    ) -> Any:
        """
        Publish a call after the store's *answer*, or return the job that it is a duplicate of.

        Args:
            plan: From `plan`.
            answer: From `Store.reserve`; None: the store was not asked, or is down.
            producer: A kombu producer.

        Raises:
            DuplicateJob: See `apply_async`.
        """
        if plan.is_superfluous(answer):
            return self._other_job(plan, answer)
        publish = super().apply_async if plan.header is None else self.publish_stamped
        return self._of(plan, publish(**plan.message(answer, self.app), producer=producer))

    def _publish_meanwhile(self, plan: Plan, asked: Asked, producer: Any) -> Any:
        """Publish as `publish` does, Celery's part of the work done while the store answers."""
        if plan.header is None or plan.sets_its_time or plan.call.get("connection"):
            return self.publish(plan, asked.answer, producer=producer)

        def headers() -> dict[str, Any]:
            if plan.is_superfluous(asked.answer):
                raise Superfluous
            return plan.headers(asked.answer)

        awaited = AwaitedHeaders(headers)
        call = {**plan.call, "headers": awaited, "connection": NoConnection(awaited)}
        try:
            return self._of(plan, self.publish_stamped(**call, producer=producer))
        except Superfluous:
            pass  # what `_other_job` raises does not come of it
        return self._other_job(plan, asked.answer)

    def _of(self, plan: Plan, result: Any) -> Any:
        result.duplicate = False  # also on Celery's own class of eager results
        result.record = (self, plan.key) if plan.ask else None
        return result

    def _ticket(self) -> Ticket | None:
        """Return the ticket of what beat publishes, None if this is another call."""
        firing = current_firing(self.name) if self.uniqueness.periodic else None
        if firing is None or self.app.conf.task_always_eager:
            return None
        return ticket_of(
            firing,
            prefix=self.record_prefix,
            grace_ms=self.uniqueness.grace_ms,
            horizon_ms=self.guard_options.horizon_ms,
        )

    def _fire(self, ticket: Ticket, call: Mapping[str, Any], producer: Any) -> UniqueResult:
        def publish(job: str) -> None:
            own_key = {"idempotency_key": f"periodic {job}", **call}  # runs may overlap
            super(UniqueTask, self).apply_async(**own_key, task_id=job, producer=producer)

        fired = fire(self.records, ticket, publish)
        if fired.duplicate:
            tell(Event.SUPPRESSED, Told(self, fired.job, ticket.key), {"reason": "duplicate"})
        result = self.AsyncResult(fired.job)
        result.duplicate = fired.duplicate
        return result

    def _is_own(self, task_id: str | None, options: Mapping[str, Any]) -> bool:
        """Whether the message is one of the job that runs here: its retry or its successor."""
        running = self.request_stack.top
        is_running = running is not None and running.id == task_id
        return bool(is_running or options.get("retries", 0) > 0)

    def _reservation(
        self, call: Mapping[str, Any], payload: str, *, suppressible: bool
    ) -> Reservation:
        uniqueness = self.uniqueness
        task_id, grace_ms = call["task_id"], self._until_expiry(uniqueness.grace_ms, call)
        if not uniqueness.latest_wins:
            return Reservation(
                task_id,
                grace_ms,
                payload=payload,
                delay_ms=self._own_delay_ms(call),
                hold_ms=uniqueness.throttle_ms,
            )
        if not suppressible:
            return Reservation(task_id, grace_ms, latest=True, payload=self._payload(call))
        if uniqueness.debounce_ms:
            self._check_times(call)
        return Reservation(
            task_id,
            grace_ms,
            latest=True,
            payload=self._payload(call),
            delay_ms=uniqueness.debounce_ms,
            limit_ms=uniqueness.limit_ms,
        )

    def _check_times(self, call: Mapping[str, Any]) -> None:
        """Refuse a time of the call's own: later calls move the one that debounce has set."""
        times = {"expires": self.expires, **call}
        own = [name for name in ("countdown", "eta", "expires") if times.get(name)]
        if own:
            raise ConfigurationError(
                f"{', '.join(own)}: expected neither countdown, eta nor expires on a task with "
                "debounce, which says itself when a call runs and lets later ones put it off. "
                "Leave it out of the call, or the debounce out of the task."
            )

    def _payload(self, call: Mapping[str, Any]) -> str:
        """Return a digest of all arguments, which equal keys need not share."""
        args, kwargs = self._as_sent(call["args"], call["kwargs"], call)
        return payload_digest(None, self.call_signature, args or (), kwargs or {})

    def _reserved_ms(self, options: Mapping[str, Any]) -> int:
        """Return how long the message may wait in the queue without losing its place."""
        reserved_ms = self._own_delay_ms(options) + self.uniqueness.reserved_for_ms
        return self._until_expiry(reserved_ms, options)

    def _own_delay_ms(self, options: Mapping[str, Any]) -> int:
        """Return how long the call itself puts its job off."""
        return self._ms_until(options.get("eta") or options.get("countdown") or 0)

    def _until_expiry(self, time_ms: int, options: Mapping[str, Any]) -> int:
        """Return *time_ms*, or how long it is until the message expires if that is less."""
        expires = options.get("expires", self.expires)
        return time_ms if expires is None else min(time_ms, self._ms_until(expires))

    def _ms_until(self, when: Any) -> int:
        """Return milliseconds until *when*, as Celery takes it: seconds or a point in time."""
        if isinstance(when, str | datetime):
            at = maybe_make_aware(maybe_iso8601(when), self.app.timezone)
            when = (at - datetime.now(UTC)).total_seconds()
        return max(0, round(float(when) * 1_000))

    def _confirm(self, plan: Plan, answer: Reserved | Duplicate | None) -> None:
        confirmation = plan.confirmation(answer)
        if confirmation is None:
            return
        try:
            self.records.confirm([confirmation])
        except StoreUnavailable as error:  # the reservation ends sooner
            logger.warning("%s is reserved for the publish grace only: %s", plan.key, error)

    def _other_job(self, plan: Plan, answer: Any) -> UniqueResult:
        tell(Event.SUPPRESSED, Told(self, answer.job, plan.key), {"reason": "duplicate"})
        if self.uniqueness.on_duplicate == "raise":
            raise DuplicateJob(plan.key, answer.job)
        result = self.AsyncResult(answer.job)
        result.duplicate, result.record = True, (self, plan.key)
        return result

    def AsyncResult(self, task_id: str, **kwargs: Any) -> UniqueResult:  # noqa: N802 - Celery's name
        """Return the result of the job *task_id*."""
        options = {"backend": self.backend, "task_name": self.name, "app": self.app, **kwargs}
        return UniqueResult(task_id, **options)


def _is_awaited(options: Mapping[str, Any]) -> bool:
    """Whether anything hangs on a message with these options, or comes of another one."""
    hangs = ("link", "link_error", "chord", "group_id", "parent_id")
    in_chain = options.get("chain") is not None  # the last link of a chain has an empty one
    return in_chain or any(options.get(name) for name in hangs)


def _end(task: UniqueTask, key: str, job: str) -> None:
    try:
        task.records.end(key, job=job, killed=False, horizon_ms=task.guard_options.horizon_ms)
    except StoreUnavailable as error:
        _warn_reserved(key, error)


def _warn_reserved(key: str, error: StoreUnavailable) -> None:
    logger.warning("%s stays reserved until its time is over: %s", key, error)
