"""Where messages go, and how a publish ends (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from reliable_tasks.doctor.checks.kit import RABBITMQ, REDIS, asked, check
from reliable_tasks.doctor.facts import Facts
from reliable_tasks.doctor.findings import BROKER, ERROR, WARNING, Check, Found

__all__ = ("CHECKS",)

ONLY_PLACE = """\
app.conf.broker_transport_options = {"visibility_timeout": 3600}  # with Redis; seconds"""

TROUBLE = {
    "refused": (
        "broker-refused",
        "Nothing listens at the broker's address.",
        "Every publish fails after its retries, and workers wait.",
        (
            "Start the broker, or correct host and port in broker_url. In a container, localhost "
            "is the container itself."
        ),
    ),
    "silent": (
        "broker-silent",
        "The broker takes connections and does not answer, or packets to it are dropped.",
        "A publish hangs until a time-out, and by default there is none.",
        (
            "Look at the server's load, and at firewalls between. So that a publish fails:\n"
            'app.conf.broker_transport_options = {"socket_timeout": 1.5}  # Redis\n'
            "app.conf.broker_connection_timeout = 1.5"
        ),
    ),
    "host": (
        "broker-host",
        "The broker's host name has no address.",
        "Nothing can be published or read.",
        "Correct the host in broker_url, or the DNS of this network.",
    ),
    "port": (
        "broker-port",
        "The broker is at another port than broker_url says.",
        "Nothing can be published or read.",
        'broker_url = "redis://host:6379/0"  # RabbitMQ: amqp://host:5672/vhost',
    ),
    "scheme": (
        "broker-scheme",
        "A server of another kind answers at the broker's address.",
        "Nothing can be published or read; some clients hang on the other's greeting.",
        (
            "Begin broker_url with redis:// for Redis, rediss:// for Redis with TLS, amqp:// for "
            "RabbitMQ, amqps:// for RabbitMQ with TLS."
        ),
    ),
    "password": (
        "broker-password",
        "The broker refuses the user or the password.",
        "Nothing can be published or read.",
        'broker_url = os.environ["CELERY_BROKER_URL"]  # percent-encode /, @, : and # in it',
    ),
    "vhost": (
        "broker-vhost",
        "RabbitMQ has no such virtual host, or it is closed to this user.",
        "Nothing can be published or read.",
        (
            "rabbitmqctl add_vhost NAME\n"
            "rabbitmqctl set_permissions -p NAME USER '.*' '.*' '.*'\n"
            'broker_url = "amqp://host//"  # the virtual host /, with two strokes'
        ),
    ),
    "database": (
        "broker-database",
        "Redis has no database of this number.",
        "Nothing can be published or read.",
        'broker_url = "redis://host:6379/0"  # below `databases` in redis.conf, or 16',
    ),
    "tls": (
        "broker-tls",
        "No encrypted connection to the broker comes about.",
        "Nothing can be published or read.",
        (
            "Give the authority of the server's certificate: presets.redis(url, ca_certs=...), "
            "presets.rabbitmq(url, ca_certs=...)."
        ),
    ),
    "other": (
        "broker-failed",
        "The broker cannot be used.",
        "Nothing can be published or read.",
        "See what the server said, and its log.",
    ),
}


def _of_trouble(trouble: str) -> Check:
    id_, title, why, fix = TROUBLE[trouble]

    def look(facts: Facts) -> Iterator[Found]:
        link = facts.broker
        if link is not None and link.trouble == trouble:
            yield Found(f"{link.place.url}: {link.detail}" if link.detail else link.place.url)

    return Check(
        id=id_,
        severity=ERROR,
        topic=BROKER,
        title=title,
        why=why,
        fix=fix,
        look=look,
        knows=asked("broker"),
    )


@check(
    "broker-address",
    severity=ERROR,
    topic=BROKER,
    title="The broker's address names something that cannot be a broker.",
    why="Two plain servers do not share their messages; Kombu speaks to no Redis Cluster; "
    "sentinels must be asked for one primary by its name.",
    fix='broker_url = "redis://host:6379/0"  # or sentinel://a:26379/0;sentinel://b:26379/0, with\n'
    'app.conf.broker_transport_options = {"master_name": "mymaster"}',
)
def address(facts: Facts) -> Iterator[Found]:
    """Say what the presets say of it."""
    for fault in facts.settings.address_faults:
        yield Found(fault)


@check(
    "publish-unconfirmed",
    severity=WARNING,
    topic=BROKER,
    title="RabbitMQ does not confirm what is published.",
    why="A message that RabbitMQ never got, or dropped, is a publish that went well: the job is "
    "lost, and nobody is told.",
    fix='app.conf.broker_transport_options = {"confirm_publish": True}',
)
def unconfirmed(facts: Facts) -> Iterator[Found]:
    """Look at confirm_publish."""
    settings = facts.settings
    if settings.broker.kind == RABBITMQ and not settings.transport_options.get("confirm_publish"):
        yield Found("broker_transport_options has no confirm_publish")


@check(
    "publish-unbounded",
    severity=WARNING,
    topic=BROKER,
    title="A publish to Redis has no time-out.",
    why="A Redis that accepts and never answers holds each publish, and the request that waits for "
    "it, for 75 s and more.",
    fix='app.conf.broker_transport_options = {"socket_timeout": 1.5,\n'
    '    "socket_connect_timeout": 1.5}  # seconds',
)
def unbounded(facts: Facts) -> Iterator[Found]:
    """Look at socket_timeout."""
    settings = facts.settings
    if settings.broker.kind == REDIS and not settings.transport_options.get("socket_timeout"):
        yield Found("broker_transport_options has no socket_timeout")


@check(
    "visibility-timeout-misplaced",
    severity=WARNING,
    topic=BROKER,
    title="A visibility timeout is set where it does nothing.",
    why="Redis has its hour, whatever is written there: longer jobs and countdowns run twice, and "
    "a dead worker's jobs wait. RabbitMQ has no visibility timeout at all.",
    fix=ONLY_PLACE,
)
def misplaced(facts: Facts) -> Iterator[Found]:
    """Look everywhere else."""
    settings = facts.settings
    for name in sorted(settings.given):
        if name.endswith("visibility_timeout"):
            yield Found(f"setting {name}")
    options = settings.conf.get("result_backend_transport_options") or {}
    if "visibility_timeout" in options:
        yield Found(f"result_backend_transport_options: {options['visibility_timeout']!r}")
    own = settings.transport_options
    if "visibility_timeout" in own and settings.broker.kind in (RABBITMQ, "memory"):
        yield Found(
            f"broker_transport_options: {own['visibility_timeout']!r}, with {settings.broker.url}",
            fix='app.conf.task_queues["NAME"]["queue_arguments"]["x-consumer-timeout"] = 3_600_000',
        )


@check(
    "setting-misspelt",
    severity=WARNING,
    topic=BROKER,
    title="A setting has a name that means nothing, and nearly is another one's.",
    why="Celery takes any name without a word. What was meant has its default.",
    fix="Correct the name, or give a setting of your own another one.",
)
def misspelt(facts: Facts) -> Iterator[Found]:
    """Say what was meant."""
    for name, meant in sorted(facts.settings.misspelt.items()):
        yield Found(f"{name}; did you mean {meant}?", fix=f"app.conf.{meant} = ...  # not {name}")


@check(
    "setting-refused",
    severity=ERROR,
    topic=BROKER,
    title="A worker of this app would not start.",
    why="It must import every task, and it refuses settings that break the promises of "
    "IdempotentTask and retry_task.",
    fix="See the message: it says what was expected.",
)
def refused(facts: Facts) -> Iterator[Found]:
    """Say what a worker would say."""
    for refusal in facts.settings.refusals:
        yield Found(refusal)


@check(
    "preset-overridden",
    severity=WARNING,
    topic=BROKER,
    title="The app's own settings break a promise of its preset.",
    why="What the app says itself wins. The promise named beside it does not hold then.",
    fix="Remove the setting, or tell the preset what you need:\n"
    "presets.redis(url, longest_task=..., longest_countdown=...)",
)
def overridden(facts: Facts) -> Iterator[Found]:
    """Say what a worker would warn of."""
    for promise in facts.settings.broken_promises:
        yield Found(promise)


@check(
    "channel-error-ends-worker",
    severity=WARNING,
    topic=BROKER,
    title="A worker ends when RabbitMQ closes its channel.",
    why="A consumer timeout closes the channel. The worker logs an unrecoverable error, cannot "
    "acknowledge what it runs, and ends; its supervisor starts it again, without end.",
    fix="app.conf.broker_channel_error_retry = True",
)
def channel_error(facts: Facts) -> Iterator[Found]:
    """Look at broker_channel_error_retry."""
    settings = facts.settings
    if settings.reads.kind == RABBITMQ and not settings.conf.get("broker_channel_error_retry"):
        yield Found("broker_channel_error_retry = False")


@check(
    "broker-heartbeat-off",
    severity=WARNING,
    topic=BROKER,
    title="Worker and RabbitMQ do not notice when the other one vanishes.",
    why="Jobs of a machine that lost its network wait until the kernel gives its connection up: "
    "hours.",
    fix="app.conf.broker_heartbeat = 30  # seconds",
)
def heartbeat_off(facts: Facts) -> Iterator[Found]:
    """Look at broker_heartbeat."""
    settings = facts.settings
    if settings.reads.kind == RABBITMQ and not settings.conf.get("broker_heartbeat"):
        yield Found(f"broker_heartbeat = {settings.conf.get('broker_heartbeat')!r}")


CHECKS = (
    address,
    *map(_of_trouble, TROUBLE),
    unconfirmed,
    unbounded,
    misplaced,
    misspelt,
    refused,
    overridden,
    channel_error,
    heartbeat_off,
)
