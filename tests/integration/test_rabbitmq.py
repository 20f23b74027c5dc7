"""The RabbitMQ that `reliable_tasks.testing` starts is real, apart, quick to share, and ends."""

from __future__ import annotations

import kombu
import pytest

from reliable_tasks.testing import QueueState, ServerFailed, eventually, rabbitmq_server
from reliable_tasks.testing.processes import group_of


@pytest.fixture(scope="module")
def rabbitmq():
    """A node of this module's own, in place of the session's: the last test ends it."""
    with rabbitmq_server(config=["consumer_timeout = 5000"]) as own:
        yield own


@pytest.fixture
def quorum(vhost):
    """A quorum queue with one message in a virtual host of its own."""
    with vhost.connection() as connection:
        channel = connection.default_channel
        queue = kombu.Queue("jobs", durable=True, queue_arguments={"x-queue-type": "quorum"})
        queue(channel).declare()
    publish(vhost, "jobs")
    return vhost


def publish(vhost, queue):
    """Publish one message, and wait until the server has it for good."""
    with vhost.connection(transport_options={"confirm_publish": True}) as connection:
        kombu.Producer(connection).publish({}, routing_key=queue, retry=False)


def test_is_the_node_that_was_started(rabbitmq):
    """A server answers as the very process that its object names."""
    assert rabbitmq.evaluate("list_to_binary(os:getpid())") == str(rabbitmq.pid)


def test_listens_on_the_loopback_interface_only(rabbitmq):
    """Nobody outside can reach the node: neither its clients' port nor that of other nodes."""
    listeners = rabbitmq.evaluate(
        "[list_to_binary(inet:ntoa(A)) || P <- erlang:ports(), "
        "{ok, {A, _}} <- [inet:sockname(P)], {error, enotconn} =:= inet:peername(P)]"
    )

    assert listeners == ["127.0.0.1"] * 2


def test_takes_settings(rabbitmq):
    """Lines of its configuration file are the node's settings."""
    assert rabbitmq.evaluate("element(2, application:get_env(rabbit, consumer_timeout))") == 5000


def test_virtual_hosts_are_apart(rabbitmq, quorum):
    """Each test's virtual host is empty and unseen by the others."""
    other = rabbitmq.new_vhost()

    assert other.queues() == {}
    assert other.url != quorum.url
    eventually(lambda: quorum.queues() == {"jobs": QueueState(1, 0, 0)})


def test_deleted_virtual_host_is_gone(rabbitmq):
    """A virtual host goes with its queues and connections, and others stay."""
    gone, other = rabbitmq.new_vhost(), rabbitmq.new_vhost()
    with gone.connection() as connection:
        kombu.Queue("jobs")(connection.default_channel).declare()

        gone.delete()

        eventually(lambda: gone.connections() == 0)
    assert gone.queues() == {}
    left = rabbitmq.evaluate("rabbit_vhost:list_names()")
    assert (gone.name in left, other.name in left) == (False, True)


@pytest.mark.chaos  # jobs outlive one in test_retry_rabbitmq.py
def test_confirmed_message_outlives_a_kill(rabbitmq, quorum):
    """A message that was confirmed is there after SIGKILL of the node, and so is its host."""
    pid, port = rabbitmq.pid, rabbitmq.port
    rabbitmq.sync()

    rabbitmq.kill()
    assert not rabbitmq.is_running
    rabbitmq.ensure_running()

    assert (rabbitmq.port, rabbitmq.pid == pid) == (port, False)
    with quorum.connection() as connection:
        queue = kombu.Queue("jobs", no_declare=True)(connection.default_channel)
        assert eventually(queue.get).payload == {}


def test_cut_connection_is_lost_without_a_goodbye(rabbitmq, quorum):
    """cut() drops the connections of one virtual host, and of no other."""
    other = rabbitmq.new_vhost()
    with quorum.connection() as connection, other.connection() as spared:
        connection.connect()
        spared.connect()
        assert (quorum.connections(), other.connections()) == (1, 1)

        quorum.cut()

        eventually(lambda: quorum.connections() == 0)
        with pytest.raises(ConnectionResetError):
            connection.default_channel.queue_declare("jobs", passive=True)
        assert other.connections() == 1


def test_wrong_question_is_an_error(rabbitmq):
    """What the node cannot evaluate raises, with what it said."""
    with pytest.raises(ServerFailed, match="badarith"):
        rabbitmq.evaluate("1 / 0")


def test_leaves_nothing(rabbitmq):
    """After a server no process and no file is left, even if it was paused."""
    groups = [rabbitmq.pid, rabbitmq._epmd.pid]
    rabbitmq.pause()

    rabbitmq.close()

    assert not any(group_of(pid) for pid in groups)
    assert not rabbitmq.directory.exists()
