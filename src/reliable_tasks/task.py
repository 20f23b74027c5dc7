"""`IdempotentTask`: from Celery's calls to the guard and back."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any, ClassVar

from celery import Task
from celery.exceptions import Ignore, Reject
from celery.utils import uuid

from reliable_tasks.batch import SharedProducer
from reliable_tasks.core import defaults
from reliable_tasks.core.durations import HOPS_PER_REPLACEMENT, Seconds
from reliable_tasks.core.header import NAME, Header, Identity
from reliable_tasks.core.keys import (
    check_names,
    key_of,
    message_key,
    payload_digest,
    record_key,
)
from reliable_tasks.core.lines import HOPS_PER_RETRY, line_of
from reliable_tasks.core.settings import Options, check_spelling, named, read
from reliable_tasks.core.store import Store
from reliable_tasks.errors import ConfigurationError, LeaseLost, StoreUnavailable
from reliable_tasks.executions import SLOT, Execution
from reliable_tasks.leases import Lease
from reliable_tasks.publish import (
    countdown_of,
    freeze,
    give_back,
    headers_of,
    members,
    queue_of,
    shown_arguments,
    timed,
)
from reliable_tasks.retry.declared import check_declaration
from reliable_tasks.storage import (
    Place,
    place_of,
    prefix_of,
    shelf_of,
    warn_of_other_store,
)

if TYPE_CHECKING:
    from reliable_tasks.burial import Shelf
    from reliable_tasks.delivery import Delivery
    from reliable_tasks.running import Runner

__all__ = ("IdempotentTask",)

logger = logging.getLogger("reliable_tasks")

WORKER_STEP = "reliable_tasks.worker:WorkerStep"


class IdempotentTask(Task):
    """
    A task that takes effect once, however often its message is delivered.

    Use it as a base: ``@app.task(base=IdempotentTask)``. Every option below may
    be given to the decorator, set on a subclass, or set for the whole app as
    ``reliable_tasks_<option>``. Durations are seconds or a `timedelta`.

    Attributes:
        idempotency_key: What makes two calls the same job: names of arguments,
            or a callable that gets the call's arguments. None: each message is
            a job of its own.
        same_payload: Names of arguments that must agree between jobs of one key. None:
            nothing is compared, or all with a key given for one call.
        lease_seconds: A dead execution is taken over after at most this. 30 s.
        max_run: One execution is renewed no longer than this; by default the
            hard time limit and a margin, else 24 h.
        retention: How long other jobs of the key get the stored outcome; 24 h
            with a key, the horizon without.
        redelivery_horizon: How long a copy of a message may still turn up. 6 h.
        when_running: Another job of the key ``"defer"``: waits; ``"skip"``: is dropped.
        when_done: Another job of the key ``"replay"``: gets the stored result;
            ``"skip"``: is dropped.
        when_failed: ``"release"``: another job may run; ``"remember"``: it gets
            the same error.
        max_crashes: Deaths before quarantine. 3.
        max_result_bytes: A larger result is recorded without its value. 64 KiB.
        when_store_down: ``"retry"`` later, or ``"run"`` unguarded and say so.
        store_url: Where records live; by default the broker or the result
            backend, if one is Redis.
        store: A redis-py client or a store, instead of a URL.

    Raises:
        ConfigurationError: At declaration, if the options cannot work.
    """

    abstract = True
    acks_late = True
    reject_on_worker_lost = True
    retry_on_worker_lost = False
    tells_started = False
    Request = "reliable_tasks.request:GuardedRequest"
    option_names: ClassVar[tuple[str, ...]] = tuple(defaults.GUARDED)

    idempotency_key: ClassVar[tuple[str, ...] | Callable[..., Any] | None] = None
    same_payload: ClassVar[tuple[str, ...] | None] = None
    lease_seconds: ClassVar[Seconds | None] = None
    max_run: ClassVar[Seconds | None] = None
    retention: ClassVar[Seconds | None] = None
    redelivery_horizon: ClassVar[Seconds | None] = None
    when_running: ClassVar[str | None] = None
    when_done: ClassVar[str | None] = None
    when_failed: ClassVar[str | None] = None
    max_crashes: ClassVar[int | None] = None
    max_result_bytes: ClassVar[int | None] = None
    when_store_down: ClassVar[str | None] = None
    store_url: ClassVar[str | None] = None
    store: ClassVar[Any] = None

    # --- declaration ----------------------------------------------------------------------

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        with named(cls):
            options = cls.read_options(_declared(cls))
            run = inspect.getattr_static(cls, "run")
            if run is not inspect.getattr_static(Task, "run"):
                _check_names(options, _signature_of(run))
            _check_spelling(cls)
            _check_acknowledgement(cls)
        check_declaration(cls)

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Check what the app's settings and annotations have added."""
        super().on_bound(app)
        with named(cls):
            _check_spelling(cls)
            _check_acknowledgement(cls)
        check_declaration(cls)
        if cls.track_started:  # the guard says it: a copy that does not run has not started
            cls.tells_started, cls.track_started = True, False
        app.steps["worker"].add(WORKER_STEP)

    @classmethod
    def read_options(cls, given: Mapping[str, Any]) -> Options:
        """Check *given* options as a set, and convert those of the guard."""
        return read(given)

    @classmethod
    def with_settings(
        cls, declared: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the options that are *declared*, and of the app's *settings* the rest."""
        return {**settings, **{name: each for name, each in declared.items() if each is not None}}

    @cached_property
    def guard_options(self) -> Options:
        """The options in force, from the declaration and the app's settings."""
        options = self.read_options(self.options_in_force())
        _check_names(options, self.call_signature)
        return options

    def options_in_force(self) -> dict[str, Any]:
        """Return what is declared, and what the app's settings say of the rest."""
        conf = self.app.conf
        settings = {name: conf.get(f"reliable_tasks_{name}") for name in self.option_names}
        return self.with_settings(_declared(type(self)), settings)

    @property
    def retry_grace_ms(self) -> int:
        """How long a retry that is due keeps its key."""
        return self.guard_options.lease_ms

    @property
    def requeue_grace_ms(self) -> int:
        """How long a message that its body gave back to the queue keeps its key."""
        return 0

    @cached_property
    def call_signature(self) -> inspect.Signature:
        """How the task is called, without ``self``."""
        return _signature_of(inspect.getattr_static(type(self), "run"))

    @cached_property
    def place(self) -> Place:
        """Where the task's records live."""
        return place_of(self.app.conf, url=self.store_url, store=self.store)

    @cached_property
    def store_id(self) -> str:
        """Short name of that place, as messages carry it."""
        return self.place.store_id

    @cached_property
    def records(self) -> Store:
        """The store of the task's records."""
        return self.place.open()

    @cached_property
    def record_prefix(self) -> str:
        """First part of the records' names."""
        return prefix_of(self.app.conf)

    @cached_property
    def shelf(self) -> Shelf:
        """Where the task's dead letters are kept."""
        return shelf_of(self.app.conf)

    # --- identity -------------------------------------------------------------------------

    def identity_of(self, request: Any, args: Any, kwargs: Any) -> Identity:
        """
        Return which job a delivery belongs to, from its header or else from its arguments.

        Args:
            request: The delivery's `celery.app.task.Context`.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
        """
        headers = request.headers
        header = Header.parse(headers.get(NAME), request.id) if headers else None
        if header is not None and header.store_id not in (None, self.store_id):
            warn_of_other_store(header.store_id, self.place)
        has_key = self.guard_options.idempotency_key is not None
        if header is None or (header.key_digest is None and has_key):
            made = self._header_of(args, kwargs, request.id, None)
            header = made if header is None else replace(
                header, key_digest=made.key_digest, payload_digest=made.payload_digest
            )  # fmt: skip
        if header.key_digest is None:
            key = message_key(self.record_prefix, self.name, request.id)
        else:
            key = record_key(self.record_prefix, self.name, header.key_digest)
        return Identity(key, header)

    def _header_of(
        self,
        args: Any,
        kwargs: Any,
        task_id: str,
        idempotency_key: str | None,
        store_id: str | None = None,
    ) -> Header:
        """Make the header of a new message."""
        options = self.guard_options
        spec = options.idempotency_key if idempotency_key is None else idempotency_key
        if spec is None:
            return Header(task_id, store_id=store_id)
        args, kwargs = args or (), kwargs or {}
        signature = self.call_signature
        names = options.same_payload
        payload = None
        if names is not None or idempotency_key is not None:
            payload = payload_digest(names, signature, args, kwargs)
        digest = key_of(spec, signature, args, kwargs)
        return Header(task_id, digest, payload, store_id=store_id)

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
        *,
        idempotency_key: str | None = None,
        headers: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """
        Publish a message, as `celery.app.task.Task.apply_async` does.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.
            task_id: The job's id; random if left out.
            producer: A kombu producer.
            link: Signatures to call after success.
            link_error: Signatures to call after failure.
            shadow: Name for logs.
            idempotency_key: What makes this call the same job as others, instead
                of the declared arguments.
            headers: Headers for the message.
            options: What else Celery takes.

        Raises:
            UnserializableArguments: A key cannot be made of the arguments.
            ConfigurationError: No store can be found in the settings.
        """
        task_id = task_id or uuid()
        stamped = self._stamped(args, kwargs, task_id, idempotency_key, headers, options)
        call = {**options, "link": link, "link_error": link_error, "shadow": shadow}
        return self.publish_stamped(
            args, kwargs, task_id=task_id, producer=producer, headers=stamped, **call
        )

    def publish_stamped(
        self,
        args: Any,
        kwargs: Any,
        *,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        **options: Any,
    ) -> Any:
        """Publish a message whose own header is among its headers already."""
        publish = super().apply_async
        if isinstance(producer, SharedProducer):
            publish = producer.way_of(publish)
        links = {"link": freeze(link), "link_error": freeze(link_error)}
        return publish(args, kwargs, producer=producer, **links, **timed(self.app, options))

    def apply(
        self,
        args: Any = None,
        kwargs: Any = None,
        *positional: Any,
        task_id: str | None = None,
        idempotency_key: str | None = None,
        headers: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """
        Run the task here and now, under the whole protocol on the process's memory store.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.
            positional: What else Celery takes by position.
            task_id: The job's id; random if left out.
            idempotency_key: As for `apply_async`.
            headers: Headers for the request.
            options: What else Celery takes.

        Returns:
            Celery's `EagerResult`. A duplicate of a running job has failed with
            `AlreadyRunning`, for there is no queue to wait in.

        Raises:
            UnserializableArguments: A key cannot be made of the arguments.
        """
        task_id = task_id or uuid()
        stamped = self._stamped(args, kwargs, task_id, idempotency_key, headers, {}, eager=True)
        return super().apply(args, kwargs, *positional, task_id=task_id, headers=stamped, **options)

    def _stamped(
        self,
        args: Any,
        kwargs: Any,
        task_id: str,
        idempotency_key: str | None,
        headers: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        *,
        eager: bool | None = None,
    ) -> dict[str, Any]:
        """Return *headers* with this message's own header among them."""
        own = self._header_for(
            args, kwargs, task_id, idempotency_key, headers, options, eager=eager
        )
        return {**(headers or {}), NAME: own.encode()}

    def _header_for(
        self,
        args: Any,
        kwargs: Any,
        task_id: str,
        idempotency_key: str | None,
        headers: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        *,
        eager: bool | None = None,
    ) -> Header:
        """Return the message's own header, which may stand among *headers* already."""
        header = Header.parse((headers or {}).get(NAME), task_id)
        if header is None:
            args, kwargs = self._as_sent(args, kwargs, options)
            if eager is None:
                eager = self.app.conf.task_always_eager
            store_id = None if eager else self.store_id
            return self._header_of(args, kwargs, task_id, idempotency_key, store_id)
        if options.get("retries", 0) > self.request.retries:
            first_hop = header.hop - header.hop % HOPS_PER_RETRY
            return replace(header, hop=first_hop, abandoned=())
        return header

    def _as_sent(self, args: Any, kwargs: Any, options: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return the arguments as they will stand in the message: pydantic models dumped."""
        dump = getattr(self, "_dump_pydantic_arguments", None)
        if dump is None or options.get("serializer") == "pickle":
            return args, kwargs
        dumped: tuple[Any, Any] = dump(args, kwargs)
        return dumped

    # --- running --------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body under the guard in a worker or eagerly; as it is in a direct call."""
        request = self.request_stack.top
        if request is None or request.called_directly:
            return super().__call__(*args, **kwargs)
        if SLOT in request.__dict__:  # the body calls its own task: one execution
            return self._body(*args, **kwargs)
        return self._runner.run(request, args, kwargs)

    @cached_property
    def _runner(self) -> Runner:
        # Here, for it costs 12 ms, and most programs that import the package run no task.
        from reliable_tasks.running import Runner  # noqa: PLC0415

        return Runner(self)

    @cached_property
    def _body(self) -> Callable[..., Any]:
        """The next `__call__` after this class's, or the body itself where that is Celery's."""
        mro = type(self).__mro__
        for cls in mro[mro.index(IdempotentTask) + 1 :]:
            if "__call__" in vars(cls):
                break
        if cls is Task:
            return lambda *args, **kwargs: self.run(*args, **kwargs)  # noqa: PLW0108 - run may change
        return super().__call__  # type: ignore[no-any-return]

    @property
    def lease(self) -> Lease:
        """
        The lease of the execution that asks; a local one, never lost, in a direct call.

        Celery knows an execution by its thread: take the lease in the body, and hand it to
        threads of your own.

        ``token``, ``key``, ``attempt``, ``crashes``, ``remaining``, ``lost`` and ``check()``.
        """
        request = self.request
        execution = request.__dict__.get(SLOT)
        if execution is None:
            if self.request_stack.top is None and current_thread() is not main_thread():
                logger.warning(
                    "%s: a thread without an execution asked for its lease and got a local one, "
                    "which is never lost. Take `lease = self.lease` in the body and pass it on.",
                    self.name,
                )
            lease = Lease(None, f"direct:{self.name}", 1, lease_ms=self.guard_options.lease_ms)
            execution = request.__dict__[SLOT] = Execution(lease)
        return execution.lease  # type: ignore[no-any-return]

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: BaseException | None = None,
        throw: bool = True,
        **options: Any,
    ) -> Any:
        """
        Publish the task again for later, as `celery.app.task.Task.retry` does.

        A retry that cannot be published gives the delivery back to the broker instead of
        ending the job, unless it never can be: then it raises what is wrong with it. Once it is
        published, the job goes on there, whatever the body does next.
        """
        execution = self._execution
        if execution is not None and isinstance(exc, LeaseLost) and exc.key == execution.lease.key:
            raise exc  # whoever took over goes on with the job
        if args is None and kwargs is None:
            options = {**shown_arguments(self.request), **options}
        if not options.get("eta"):
            options["countdown"] = self._retry_countdown(options.get("countdown"))
        options.setdefault("headers", headers_of(self.request))
        if not {"queue", "exchange", "routing_key"} & options.keys():
            options["queue"] = queue_of(self.app, self.request)
        try:
            retry = super().retry(args, kwargs, exc, throw=False, **options)
        except Reject as rejected:
            if execution is None:
                raise
            give_back(self, "retry", rejected.reason)
        if execution is not None:
            execution.retry = retry
        if throw:
            raise retry
        return retry

    def on_replace(self, sig: Any) -> Any:
        """Publish the replacement, ahead of every copy of this message: those are dropped."""
        execution = self._execution
        if execution is None or self.request.is_eager:
            return super().on_replace(sig)
        delivery = execution.delivery
        # Ahead of deferred copies too. A line, not a hop: the replacement's retries begin anew.
        line = line_of(delivery.retries, delivery.hop + HOPS_PER_REPLACEMENT)
        header = Header(delivery.job, hop=line, store_id=self.store_id)
        for part in members(sig):
            options = part["options"]
            if part["task"] == self.name and options.get("task_id") == delivery.job:
                options["headers"] = {**(options.get("headers") or {}), NAME: header.encode()}
        try:
            return super().on_replace(sig)
        except Ignore:
            self._advance(delivery, line)
            raise
        except Exception as error:
            give_back(self, "replacement", error)

    def _retry_countdown(self, countdown: float | None) -> float | None:
        """Return a wait that every queue takes; Celery loses a retry that the broker refuses."""
        if countdown is None:
            countdown = self.default_retry_delay
        if not countdown or self.request.called_directly:
            return countdown
        return countdown_of(self.app, countdown)

    def _advance(self, delivery: Delivery, line: int) -> None:
        try:
            self.records.advance(
                delivery.key,
                job=delivery.job,
                line=line,
                horizon_ms=self.guard_options.horizon_ms,
            )
        except StoreUnavailable as error:  # a copy would run the replaced body again
            logger.warning("%s: %s", delivery.key, error)

    @property
    def _execution(self) -> Execution | None:
        execution: Execution | None = self.request.__dict__.get(SLOT)
        return None if execution is None or execution.delivery is None else execution


def _declared(cls: type[IdempotentTask]) -> dict[str, Any]:
    values = {name: inspect.getattr_static(cls, name) for name in cls.option_names}
    key = values["idempotency_key"]
    values["idempotency_key"] = key.__func__ if isinstance(key, staticmethod) else key
    return values


def _signature_of(run: Any) -> inspect.Signature:
    """Return how *run*, as it stands in a class, is called, without ``self``."""
    if isinstance(run, staticmethod):
        return inspect.signature(run.__func__)
    signature = inspect.signature(run)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _check_names(options: Options, signature: inspect.Signature) -> None:
    if isinstance(options.idempotency_key, tuple):
        check_names(options.idempotency_key, signature)
    if options.same_payload is not None:
        check_names(options.same_payload, signature, option="same_payload")


def _check_spelling(cls: type[IdempotentTask]) -> None:
    added = set(dir(cls)).difference(dir(IdempotentTask))
    check_spelling(added, (*cls.option_names, "store_url"))
    idle = sorted(added.intersection(defaults.NAMES).difference(cls.option_names))
    if idle:
        raise ConfigurationError(
            f"{idle[0]}: expected UniqueTask as the base of the task, got IdempotentTask, for "
            "which it means nothing"
        )
    if inspect.getattr_static(cls, "lease") is not vars(IdempotentTask)["lease"]:
        raise ConfigurationError(
            "lease: expected lease_seconds for its length, got lease, which is the lease itself "
            "while a task runs"
        )


_ACKNOWLEDGEMENT = {"acks_late": True, "reject_on_worker_lost": True, "retry_on_worker_lost": False}


def _check_acknowledgement(cls: type) -> None:
    for option, expected in _ACKNOWLEDGEMENT.items():
        if getattr(cls, option) is not expected:
            raise ConfigurationError(
                f"{option}: expected {expected} on an IdempotentTask, "
                f"got {getattr(cls, option)!r}. A message that is acknowledged or replaced before "
                "its outcome is recorded is lost, or its deaths are not counted."
            )
