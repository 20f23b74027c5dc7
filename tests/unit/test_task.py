"""What `IdempotentTask` promises without a server: options, headers, keys, and calls in place."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from celery import Celery, Task, _state, shared_task
from celery.app.task import Context
from celery.utils.dispatch import Signal

from reliable_tasks import ConfigurationError, IdempotentTask, UnserializableArguments
from reliable_tasks.core.header import NAME, Header

STORE = "redis://localhost:1/0"


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app whose addresses nobody answers at."""
    app = Celery("unit", broker="memory://", set_as_current=False)
    app.conf.reliable_tasks_store_url = STORE
    yield app
    app.close()


@dataclass
class Sent:
    """What an app would have published."""

    messages: list[dict[str, Any]] = field(default_factory=list)

    def header(self, number: int = -1) -> Header:
        """The library's header of a message."""
        message = self.messages[number]
        header = Header.parse(message["headers"][NAME], message["task_id"])
        assert header is not None
        return header


@pytest.fixture
def sent(app: Celery, monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Collect messages instead of publishing them."""
    sent = Sent()

    def send_task(name: str, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        sent.messages.append({"name": name, "args": args, "kwargs": kwargs, **options})
        return app.AsyncResult(options["task_id"])

    monkeypatch.setattr(app, "send_task", send_task)
    return sent


def make(app: Celery, **options: Any) -> Any:
    """Declare a task with two arguments."""

    @app.task(base=IdempotentTask, name="pay", shared=False, **options)
    def pay(order: Any, cents: int = 100) -> Any:
        return [order, cents]

    return pay


def key_of(task: Any, *args: Any, **kwargs: Any) -> str:
    """The record key of a delivery without a header."""
    return str(task.identity_of(Context(id="some-id", headers=None), args, kwargs).key)


class TestHeader:
    """Each message says which job it is."""

    def test_message_is_the_identity(self, app: Celery, sent: Sent) -> None:
        """Without a key the header names the task id and no digest."""
        result = make(app).delay(1)

        header = sent.header()
        assert (header.task_id, header.key_digest, header.payload_digest) == (result.id, None, None)
        assert header.hop == 0

    def test_equal_calls_have_one_key(self, app: Celery, sent: Sent) -> None:
        """By position, by name, or by default: the same arguments are one key."""
        task = make(app, idempotency_key=("order", "cents"))

        task.delay(1)
        task.delay(1, 100)
        task.delay(cents=100, order=1)
        task.delay(1, cents=200)

        keys = [sent.header(number).key_digest for number in range(4)]
        assert keys[0] == keys[1] == keys[2] != keys[3]

    def test_two_messages_are_two_jobs(self, app: Celery) -> None:
        """Without a key the record is named by the task id, so equal calls are not confused."""
        task = make(app)
        records = {
            task.identity_of(Context(id=job, headers=None), (1,), {}).key for job in ("a", "b")
        }

        assert len(records) == 2

    def test_worker_agrees_with_the_producer(self, app: Celery, sent: Sent) -> None:
        """A message without our header, from send_task, leads to the same record."""
        task = make(app, idempotency_key=("order",))
        task.delay(1)
        message = sent.messages[0]
        request = Context(id=message["task_id"], headers=message["headers"])

        assert task.identity_of(request, (1,), {}).key == key_of(task, 1)

    def test_waiting_job_keeps_its_key(self, app: Celery, sent: Sent) -> None:
        """The header made at publish decides, whatever the arguments would give today."""
        task = make(app, idempotency_key=("order",))
        task.delay(1)
        request = Context(id=sent.messages[0]["task_id"], headers=sent.messages[0]["headers"])

        assert task.identity_of(request, (2,), {}).key == key_of(task, 1)

    def test_forwarded_header_is_not_trusted(self, app: Celery, sent: Sent) -> None:
        """A user who forwards the headers of another message does not forward its key."""
        task = make(app, idempotency_key=("order",))
        task.delay(1)
        forwarded = sent.messages[0]["headers"]

        result = task.apply_async((2,), headers={**forwarded, "tenant": "a"})

        assert sent.header().task_id == result.id
        assert sent.header().key_digest != sent.header(0).key_digest
        assert sent.messages[1]["headers"]["tenant"] == "a"
        request = Context(id="another", headers=forwarded)
        assert task.identity_of(request, (2,), {}).key == key_of(task, 2)

    def test_own_header_is_kept(self, app: Celery, sent: Sent) -> None:
        """A message that is published once more, under its id, keeps its header and its hop."""
        task = make(app, idempotency_key=("order",))
        task.delay(1)
        again = Header.parse(sent.messages[0]["headers"][NAME], sent.messages[0]["task_id"])
        assert again is not None

        headers = {NAME: again.next_hop().encode()}
        task.apply_async((1,), task_id=again.task_id, headers=headers)

        assert sent.header() == again.next_hop()

    def test_callers_headers_are_not_changed(self, app: Celery, sent: Sent) -> None:
        """The mapping that the caller passes stays as it was."""
        headers = {"tenant": "a"}

        make(app).apply_async((1,), headers=headers)

        assert headers == {"tenant": "a"}


class TestKeyPerCall:
    """A key can be given with the call."""

    def test_it_replaces_the_declared_one(self, app: Celery, sent: Sent) -> None:
        """Two calls with one key are one job, whatever is declared."""
        task = make(app, idempotency_key=("order",))

        task.apply_async((1,), idempotency_key="request-7")
        task.apply_async((2,), idempotency_key="request-7")

        assert sent.header(0).key_digest == sent.header(1).key_digest

    def test_all_arguments_are_compared(self, app: Celery, sent: Sent) -> None:
        """Calls with one key and other arguments can be told apart by the payload."""
        task = make(app)

        task.apply_async((1,), idempotency_key="request-7")
        task.apply_async((1, 100), idempotency_key="request-7")
        task.apply_async((1, 200), idempotency_key="request-7")

        payloads = [sent.header(number).payload_digest for number in range(3)]
        assert payloads[0] == payloads[1] != payloads[2]

    def test_only_named_arguments_are_compared(self, app: Celery, sent: Sent) -> None:
        """With same_payload only what it names must agree."""
        task = make(app, same_payload=("order",))

        task.apply_async((1, 100), idempotency_key="request-7")
        task.apply_async((1, 200), idempotency_key="request-7")

        assert sent.header(0).payload_digest == sent.header(1).payload_digest is not None

    def test_empty_key_is_refused(self, app: Celery, sent: Sent) -> None:
        """An empty key, which would make all such calls one job, is an error of the caller."""
        with pytest.raises(ConfigurationError):
            make(app).apply_async((1,), idempotency_key="")
        assert sent.messages == []


class TestArguments:
    """Arguments of which no key can be made are refused before anything is published."""

    def test_publish_names_the_argument(self, app: Celery, sent: Sent) -> None:
        """The error says which argument it was."""
        with pytest.raises(UnserializableArguments, match=r"order\['lines'\]"):
            make(app, idempotency_key=("order",)).delay({"lines": {1, 2}})
        assert sent.messages == []

    def test_other_arguments_are_not_looked_at(self, app: Celery, sent: Sent) -> None:
        """Only what the key names must have a canonical form."""
        make(app, idempotency_key=("cents",)).delay(object(), 1)

        assert len(sent.messages) == 1

    def test_callable_gets_the_call(self, app: Celery, sent: Sent) -> None:
        """A callable makes the key from the arguments, defaults filled in."""
        task = make(app, idempotency_key=lambda order, cents: f"{order}/{cents}")

        task.delay(1)
        task.delay(1, 100)

        assert sent.header(0).key_digest == sent.header(1).key_digest is not None


class TestOptions:
    """Options come from the declaration, a base class, the app's settings or its annotations."""

    def test_decorator(self, app: Celery) -> None:
        """What stands at the decorator is in force."""
        assert make(app, lease_seconds=timedelta(minutes=1)).guard_options.lease_ms == 60_000

    def test_subclass(self, app: Celery) -> None:
        """What stands on a base class is in force, unless the task says otherwise."""

        class Payments(IdempotentTask):
            abstract = True
            lease_seconds = 5
            max_crashes = 7

        @app.task(base=Payments, shared=False, lease_seconds=6)
        def pay() -> None: ...

        assert (pay.guard_options.lease_ms, pay.guard_options.max_crashes) == (6_000, 7)

    def test_settings_of_the_app(self, app: Celery) -> None:
        """A setting is in force where the task says nothing."""
        app.conf.update(reliable_tasks_lease_seconds=5, reliable_tasks_max_crashes=7)

        options = make(app, max_crashes=2).guard_options

        assert (options.lease_ms, options.max_crashes) == (5_000, 2)

    def test_annotations(self, app: Celery) -> None:
        """task_annotations can set our options as they set Celery's."""
        app.conf.task_annotations = {"pay": {"lease_seconds": 9}}

        assert make(app).guard_options.lease_ms == 9_000

    def test_inherited_key(self, app: Celery) -> None:
        """A key declared on a base class goes by the arguments of the task."""

        class ByOrder(IdempotentTask):
            abstract = True
            idempotency_key = ("order",)

        @app.task(base=ByOrder, shared=False)
        def pay(order: int, cents: int) -> None: ...

        assert key_of(pay, 1, 2) == key_of(pay, 1, 3) != key_of(pay, 2, 2)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"acks_late": False}, "acks_late: expected True"),
            ({"reject_on_worker_lost": False}, "reject_on_worker_lost: expected True"),
            ({"retry_on_worker_lost": True}, "retry_on_worker_lost: expected False"),
            ({"idempotency_key": ("ordr",)}, "ordr"),
            ({"idempotency_key": "order"}, "idempotency_key: expected argument names"),
            ({"same_payload": ("ordr",)}, "ordr"),
            ({"lease_seconds": 0}, "lease_seconds: expected seconds"),
            ({"max_crashes": 0}, "max_crashes: expected a whole number"),
            ({"when_running": "wait"}, "when_running: expected one of"),
            ({"retension": 5}, "retension: expected retention, got retension"),
            ({"store_uri": "redis://"}, "store_uri: expected store_url"),
            ({"lease": 5}, "lease: expected lease_seconds"),
            ({"periodic": True}, "periodic: expected UniqueTask as the base"),
            ({"throttle": 5}, "throttle: expected UniqueTask as the base"),
        ],
        ids=str,
    )
    def test_bad_option_is_refused_at_declaration(
        self, app: Celery, options: dict[str, Any], words: str
    ) -> None:
        """What cannot work is refused where it is written, with what was expected."""
        with pytest.raises(ConfigurationError, match=words):
            make(app, **options).name  # noqa: B018 - Celery declares at the first use

    def test_an_error_names_its_task(self, app: Celery) -> None:
        """Celery declares tasks late: the traceback may hold no line of the user's."""
        with pytest.raises(ConfigurationError) as caught:

            @app.task(base=IdempotentTask, shared=False, lazy=False, name="pay", lease_seconds=0)
            def pay() -> None:
                """Never declared."""

        assert caught.value.__notes__ == ["This is about the declaration of the task pay."]

    def test_a_slip_is_refused_wherever_it_comes_from(self, app: Celery) -> None:
        """A class, a mixin and an annotation are read for misspelt options like the decorator."""
        with pytest.raises(ConfigurationError, match="lease_second: expected lease_seconds"):
            type("Slow", (IdempotentTask,), {"lease_second": 60})
        with pytest.raises(ConfigurationError, match="max_crash: expected max_crashes"):
            type("Tried", (type("Mixin", (), {"max_crash": 5}), IdempotentTask), {})

        app.conf.task_annotations = {"*": {"retension": 5}}
        with pytest.raises(ConfigurationError, match="retension: expected retention"):
            make(app).name  # noqa: B018 - Celery declares at the first use

    def test_acknowledgement_cannot_be_annotated_away(self, app: Celery) -> None:
        """An annotation that would lose jobs is refused too."""
        app.conf.task_annotations = {"*": {"acks_late": False}}

        with pytest.raises(ConfigurationError, match="acks_late"):
            make(app).name  # noqa: B018 - Celery declares at the first use

    def test_no_store_anywhere(self, app: Celery, sent: Sent) -> None:
        """Without a Redis the first publish says what to set."""
        app.conf.reliable_tasks_store_url = None

        with pytest.raises(ConfigurationError, match="reliable_tasks_store_url"):
            make(app).delay(1)
        assert sent.messages == []

    def test_shared_task(self, app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
        """A shared task is guarded under the settings of each app that has it."""
        monkeypatch.setattr(_state, "_on_app_finalizers", set())
        app.conf.reliable_tasks_lease_seconds = 5

        @shared_task(base=IdempotentTask, name="shared_pay")
        def pay() -> None: ...

        assert isinstance(app.tasks["shared_pay"], IdempotentTask)
        assert app.tasks["shared_pay"].guard_options.lease_ms == 5_000


class TestInPlace:
    """Direct calls are plain calls; `.apply()` and eager mode run the whole protocol in memory."""

    def test_direct_call(self, app: Celery) -> None:
        """A direct call runs each time and asks nobody."""
        task = make(app, idempotency_key=("order",))
        order = str(uuid.uuid4())

        assert task(order) == task(order, 100) == [order, 100]

    def test_direct_lease(self, app: Celery) -> None:
        """In a direct call there is a lease that is never lost."""

        @app.task(base=IdempotentTask, bind=True, shared=False)
        def pay(self: Any) -> Any:
            self.lease.check()
            return self.lease.lost, self.lease.attempt

        assert pay() == (False, 1)

    def test_lease_outside(self, app: Celery) -> None:
        """Asked for outside of any call, the lease is a local one too."""
        lease = make(app).lease

        lease.check()
        assert not lease.lost

    @pytest.mark.parametrize("eager", [False, True])
    def test_apply_runs_once(self, app: Celery, eager: bool) -> None:
        """A second call of the key gets the stored result."""
        runs = []

        @app.task(base=IdempotentTask, idempotency_key=("order",), shared=False)
        def pay(order: str) -> int:
            runs.append(order)
            return len(runs)

        app.conf.task_always_eager = eager
        call = pay.delay if eager else lambda order: pay.apply((order,))
        order = str(uuid.uuid4())

        assert [call(order).get() for _ in range(2)] == [1, 1]
        assert runs == [order]

    def test_apply_counts_attempts(self, app: Celery) -> None:
        """Retries in eager mode are attempts of one job."""

        @app.task(base=IdempotentTask, bind=True, default_retry_delay=0, shared=False)
        def pay(self: Any) -> int:
            if self.request.retries < 2:
                raise self.retry()
            return int(self.lease.attempt)

        assert pay.apply().get() == 3

    def test_apply_fails_and_is_released(self, app: Celery) -> None:
        """After a failure another call of the key runs."""
        runs = []

        @app.task(base=IdempotentTask, idempotency_key=("order",), shared=False)
        def pay(order: str) -> str:
            runs.append(order)
            if len(runs) == 1:
                raise KeyError(order)
            return "paid"

        order = str(uuid.uuid4())
        with pytest.raises(KeyError):
            pay.apply((order,)).get()

        assert pay.apply((order,)).get() == "paid"

    def test_self_call(self, app: Celery) -> None:
        """A body that calls its own task stays in its execution."""

        @app.task(base=IdempotentTask, bind=True, shared=False)
        def pay(self: Any, depth: int) -> list[int]:
            tokens = [self.lease.token]
            return tokens + self(depth - 1) if depth else tokens

        tokens = pay.apply((3,)).get()

        assert len(tokens) == 4
        assert len(set(tokens)) == 1

    def test_guard_calls_the_next_base(self, app: Celery) -> None:
        """A base behind the guard with a `__call__` of its own is called once per execution."""
        calls = []

        class After(Task):
            abstract = True

            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                calls.append(args)
                return super().__call__(*args, **kwargs)

        class Guarded(IdempotentTask, After):
            abstract = True

        @app.task(base=Guarded, idempotency_key=("order",), shared=False)
        def pay(order: str) -> str:
            return order

        order = str(uuid.uuid4())

        assert [pay.apply((order,)).get() for _ in range(2)] == [order, order]
        assert calls == [(order,)]


def test_signals_are_celerys_own() -> None:
    """Our signals are connected to as Celery's are."""
    from reliable_tasks import signals

    assert all(isinstance(getattr(signals, name), Signal) for name in signals.__all__)
