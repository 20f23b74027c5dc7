"""What lies in a broker is seen without moving it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from celery import Celery

from reliable_tasks.broker.view import BrokerUnseen, BrokerView, Held, QueueView, view_of
from reliable_tasks.testing import close_app, eventually, rabbitmq_server, silent_server
from reliable_tasks.testing.daemons import free_port


@pytest.fixture
def apps() -> Iterator[Callable[..., Celery]]:
    """Make apps that are closed after the test."""
    with ExitStack() as stack:

        def make(url: str, **conf: Any) -> Celery:
            app = Celery("viewed", broker=url, set_as_current=False)
            app.conf.update(conf)
            app.task(name="job")(job)
            stack.callback(close_app, app)
            return app

        yield make


def job() -> None:
    """Never run."""


@contextmanager
def seen(app: Celery, **options: Any) -> Iterator[BrokerView]:
    view = view_of(app, **options)
    yield view
    view.close()


def publish(app: Celery, *ids: str, **options: Any) -> None:
    for task_id in ids:
        app.tasks["job"].apply_async(task_id=task_id, **options)


@contextmanager
def taken(app: Celery, number: int = 1) -> Iterator[list[Any]]:
    """Take messages as a consumer does, and hold them."""
    with app.connection_for_read() as connection:
        queue = app.amqp.queues["celery"](connection.default_channel)
        yield [queue.get() for _ in range(number)]


@pytest.mark.parametrize("prefix", ["", "shop:"])
def test_message_is_found_where_it_waits(database, apps, prefix):
    """It is seen how many are before one, whatever the prefix; more urgent ones go first."""
    app = apps(database.url, broker_transport_options={"global_keyprefix": prefix})
    publish(app, "a", "b", "c")
    publish(app, "late", priority=9)
    publish(app, "urgent", priority=3)

    with seen(app) as view:
        places = {
            each: view.find(each, ["celery"]).sightings[0].ahead
            for each in ("a", "c", "urgent", "late")
        }
        (queue,) = view.queues(["celery"])

    assert places == {"a": 0, "c": 2, "urgent": 3, "late": 4}
    assert queue == QueueView(name="celery", depth=5, kind="list")


def test_message_is_found_where_it_is_held(database, apps):
    """What a worker took is seen with when, and what waits in it for its time apart."""
    app = apps(database.url)
    publish(app, "now")
    publish(app, "later", countdown=60)

    with taken(app, 2), seen(app) as view:
        now, later = (view.find(each, ["celery"]).sightings[0] for each in ("now", "later"))
        held = view.held()

    assert (now.state, later.state) == ("unacked", "scheduled")
    assert now.queue == "celery"
    assert abs(now.since - time.time()) < 30
    assert later.eta is not None
    assert held.count == 2
    assert 0 <= held.oldest < 30


def test_message_that_went_back_is_marked(database, apps):
    """A message that was given back is seen as one that was delivered before."""
    app = apps(database.url)
    publish(app, "again")
    with taken(app) as (message,):
        message.reject(requeue=True)

        with seen(app) as view:
            (sighting,) = view.find("again", ["celery"]).sightings

    assert (sighting.state, sighting.redelivered) == ("queued", True)


def test_only_the_job_itself_is_found(database, apps):
    """A message that names the job as its parent, or carries its id, is none of its messages."""
    app = apps(database.url)
    publish(app, "child", root_id="job-1", parent_id="job-1", headers={"about": "job-1"})

    with seen(app) as view:
        search = view.find("job-1", ["celery"])

    assert (search.sightings, search.read, search.gap) == ((), 1, "")


def test_search_ends_at_its_limit_and_says_so(database, apps):
    """No more messages are read than was said, and what was not read is named."""
    app = apps(database.url)
    publish(app, *map(str, range(6)))

    with taken(app, 2), seen(app) as view:
        search = view.find("5", ["celery", "other"], limit=3)

    assert (search.sightings, search.read) == ((), 3)
    assert search.gap == (
        "3 messages were read, but not 1 of the queue celery, those that workers hold"
    )


def test_looking_moves_nothing(database, apps):
    """After a search every key of the broker is as it was."""
    app = apps(database.url)
    publish(app, "a", "b", "c")

    def dump() -> dict[bytes, bytes]:
        client = database.client()
        return {name: client.dump(name) for name in client.scan_iter()}

    with taken(app), seen(app) as view:
        before = dump()
        view.find("b", ["celery"])
        view.queues(["celery", "other"])
        after = dump()

    assert before == after


def test_paused_server_is_unseen_and_seen_again(database, apps):
    """A view answers within its time-out, and works again once the server does."""
    app = apps(database.url)
    with seen(app, timeout=0.3) as view:
        assert view.held() == Held(0)
        database.server.pause()
        try:
            begun = time.monotonic()
            with pytest.raises(BrokerUnseen, match="Timeout"):
                view.held()
            took = time.monotonic() - begun
        finally:
            database.server.resume()

        assert took < 3
        assert eventually(view.held) == Held(0)


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_silent_broker_is_unseen(apps, scheme):
    """A broker that accepts and never answers costs one time-out, and its password is not told."""
    with silent_server() as url:
        app = apps(url.replace("redis://", f"{scheme}://me:secret@"))
        begun = time.monotonic()
        with seen(app, timeout=0.3) as view, pytest.raises(BrokerUnseen) as caught:
            view.queues(["celery"])

    assert time.monotonic() - begun < 3
    assert "secret" not in str(caught.value)


def test_rabbitmq_tells_depth_and_consumers(vhost, apps):
    """Queues that RabbitMQ does not have are left out; it lets nobody search."""
    app = apps(vhost.url, task_publish_retry=False)
    publish(app, "a", "b")

    with app.connection_for_read() as connection:
        app.amqp.TaskConsumer(connection.default_channel).consume()
        with seen(app, management="http://127.0.0.1:1") as view:
            found = eventually(
                lambda: [each for each in view.queues(["none", "celery"]) if each.consumers]
            )
            search = view.find("a", ["celery"])
            held = view.held()

    assert found == [QueueView(name="celery", depth=0, consumers=1)]
    assert search.sightings == ()
    assert "lets nobody look" in search.gap
    assert held is None


@pytest.mark.chaos
def test_management_tells_what_workers_hold(apps):
    """Where the management interface answers, kind and held messages are known too."""
    port = free_port()
    listener = f'[{{port, {port}}}, {{ip, "127.0.0.1"}}]'
    with rabbitmq_server() as server:
        plugins = server.directory / "enabled_plugins"
        plugins.write_text("[rabbitmq_management].\n")
        server.evaluate(
            f"[application:set_env(rabbitmq_management, listener, {listener}), "
            f'element(1, rabbit_plugins:ensure("{plugins}"))]'
        )
        app = apps(server.new_vhost().url)
        publish(app, "a", "b", "c")
        with taken(app, 2), seen(app, management=f"http://127.0.0.1:{port}") as view:
            expected = QueueView(name="celery", depth=1, consumers=0, unacked=2, kind="classic")
            eventually(lambda: view.queues(["celery"]) == [expected])
            assert view.held() == Held(2)


def test_other_brokers_tell_depths(apps):
    """Any broker of kombu's has depths at least."""
    app = apps("memory://")
    publish(app, "a")

    with seen(app) as view:
        assert view.queues(["celery"]) == [QueueView(name="celery", depth=1)]
        assert view.held() is None
        assert view.find("a", ["celery"]).gap
