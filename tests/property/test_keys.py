"""Keys and headers against independent models, over values that nobody thought of."""

# ruff: noqa: DTZ001 - naive datetimes are a subject here
from __future__ import annotations

import json
import string
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from inspect import Parameter, Signature
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from kombu.utils.json import dumps, loads

from reliable_tasks.core import keys
from reliable_tasks.core.header import FORMAT, MAX_HOP, Header
from reliable_tasks.errors import UnserializableArguments

ANY_TEXT = st.text(st.characters())  # lone surrogates included
OFFSETS = st.builds(
    timezone,
    st.timedeltas(
        min_value=timedelta(hours=-24) + timedelta(microseconds=1),
        max_value=timedelta(hours=24) - timedelta(microseconds=1),
    ),
)
ZONES = st.none() | OFFSETS | st.timezones()
SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    ANY_TEXT,
    st.binary(),
    st.datetimes(timezones=ZONES),
    st.dates(),
    st.times(timezones=ZONES),
    st.decimals(),
    st.uuids(),
)
MEMBER_NAMES = st.one_of(ANY_TEXT, st.integers(), st.booleans(), st.none(), st.floats())


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.lists(inner, max_size=4).map(tuple),
            st.dictionaries(MEMBER_NAMES, inner, max_size=4),
        ),
        max_leaves=12,
    )


VALUES = nested(SCALARS)
PLAIN_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)

# Values that are easily taken for one another, in containers that are, too.
LOOKALIKES = nested(
    st.sampled_from(
        [
            0, 0.0, -0.0, False, "0", "", None, "null", 1, 1.0, True, "1", "1.0", "true", b"1",
            b"", float("nan"), "NaN", Decimal(1), Decimal("1.0"), Decimal("NaN"),
            date(2024, 1, 1), datetime(2024, 1, 1), datetime(2024, 1, 1, fold=1), time(0),
            datetime(2024, 1, 1, tzinfo=UTC),
            datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
            "2024-01-01", "2024-01-01T00:00:00", "00:00:00",
            uuid.UUID(int=1), uuid.UUID(int=1).hex, str(uuid.UUID(int=1)),
            "\ud83d\ude00", "\U0001f600", "\ud83d", "\xff", b"\xff", b"\xc3\xbf",
            {"__type__": "decimal", "__value__": "1.0"},
            {"__type__": "bytes", "__value__": "1"}, {"__type__": "base64", "__value__": "MQ=="},
            {"__type__": "date", "__value__": "2024-01-01"}, {"__type__": "decimal"},
        ]
    )
)  # fmt: skip


def arriving(value: Any) -> Any:
    """What a worker gets."""
    return loads(dumps(value))


def same(one: Any, other: Any) -> bool:
    """Whether two values that arrived are the same, by rules that know no JSON."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, float | Decimal):
        return str(one) == str(other)  # NaN is itself, and 1.0 is not 1.00
    if isinstance(one, datetime | time):
        wall = one.replace(tzinfo=None), other.replace(tzinfo=None)
        return wall[0] == wall[1] and one.utcoffset() == other.utcoffset()
    return bool(one == other)


class TestDigest:
    """The digest of any value."""

    @given(VALUES)
    def test_survives_the_wire(self, value: Any) -> None:
        """Producer and worker make the same digest of what kombu's JSON carries."""
        assert keys.digest(value) == keys.digest(arriving(value))

    @given(VALUES)
    def test_survives_the_wire_twice(self, value: Any) -> None:
        """A retry of a retry still has the digest of the first message."""
        assert keys.digest(value) == keys.digest(arriving(arriving(value)))

    @given(PLAIN_JSON)
    def test_any_producers_json_is_read_alike(self, value: Any) -> None:
        """Spacing, escapes and member order of another language's JSON do not matter."""
        compact = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        airy = json.dumps(value, indent=2)
        assert keys.digest(loads(compact)) == keys.digest(loads(airy)) == keys.digest(value)

    @given(LOOKALIKES, LOOKALIKES)
    @example({"a": 1, "b": 2}, {"b": 2, "a": 1})
    @example([1, [2]], (1, (2,)))
    def test_equal_exactly_when_alike_on_arrival(self, one: Any, other: Any) -> None:
        """Two values share a digest if and only if a worker could not tell them apart."""
        alike = same(arriving(one), arriving(other))
        assert (keys.digest(one) == keys.digest(other)) is alike

    @given(st.data())
    def test_insertion_order_does_not_matter(self, data: st.DataObject) -> None:
        """A mapping built in another order is the same mapping."""
        mapping = data.draw(st.dictionaries(ANY_TEXT, SCALARS, min_size=2, max_size=6))
        shuffled = dict(data.draw(st.permutations(list(mapping.items()))))
        # Two names that become one on the wire are one mapping less: the later wins.
        if len(arriving(mapping)) == len(mapping):
            assert keys.digest(mapping) == keys.digest(shuffled)

    @given(st.one_of(st.sets(st.integers()), st.frozensets(st.text())), st.booleans())
    def test_sets_are_refused_wherever_they_stand(self, value: Any, inside: bool) -> None:
        """A set is refused like anything else that JSON cannot carry: no order leaks in."""
        _refused([{"x": value}] if inside else value)

    @given(
        st.recursive(
            SCALARS,
            lambda inner: st.fixed_dictionaries(
                {
                    "__type__": st.sampled_from(
                        ["datetime", "date", "time", "decimal", "uuid", "bytes", "base64", "x"]
                    ),
                    "__value__": inner | st.fixed_dictionaries({"hex": inner}),
                }
            ),
            max_leaves=3,
        )
    )
    def test_envelopes_are_read_exactly_when_kombu_reads_them(self, value: Any) -> None:
        """What kombu turns into a value is keyed as that value; what it cannot read is refused."""
        try:
            arrived = arriving(value)
        except Exception:
            _refused(value)
        else:
            assert keys.digest(value) == keys.digest(arrived)


def _refused(value: Any) -> None:
    try:
        keys.digest(value)
    except UnserializableArguments:
        return
    raise AssertionError(f"{value!r} was not refused")


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    """Any signature that Python allows, with small names."""
    names = draw(st.lists(st.sampled_from("abcdef"), unique=True))
    kinds = sorted(draw(st.lists(st.sampled_from(list(_KINDS)), min_size=len(names), max_size=6)))
    parameters: list[Parameter] = []
    has_default = False
    for name, kind in zip(names, kinds, strict=False):
        if kind in _VARIADIC:
            if not any(p.kind is kind for p in parameters):
                parameters.append(Parameter(name, kind))
            continue
        optional = draw(st.booleans())
        if kind is not Parameter.KEYWORD_ONLY:
            optional = has_default = optional or has_default
        default = draw(st.integers()) if optional else Parameter.empty
        parameters.append(Parameter(name, kind, default=default))
    return Signature(parameters)


_KINDS = (
    Parameter.POSITIONAL_ONLY,
    Parameter.POSITIONAL_OR_KEYWORD,
    Parameter.VAR_POSITIONAL,
    Parameter.KEYWORD_ONLY,
    Parameter.VAR_KEYWORD,
)
_VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)

ARGS = st.lists(st.integers(), max_size=5).map(tuple)
KWARGS = st.dictionaries(st.sampled_from("abcdefg"), st.integers(), max_size=5)


def outcome(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except TypeError:
        return TypeError


class TestCalls:
    """Keys of calls."""

    @given(signatures(), ARGS, KWARGS)
    def test_binding_follows_python(
        self, signature: Signature, args: tuple[int, ...], kwargs: dict[str, int]
    ) -> None:
        """A call is bound, or refused, exactly as Python does it."""

        def expected() -> list[tuple[str, Any]]:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return list(bound.arguments.items())

        assert outcome(lambda: list(keys.bind(signature, args, kwargs).items())) == outcome(
            expected
        )

    @given(st.data())
    def test_ways_to_write_one_call_are_one_job(self, data: st.DataObject) -> None:
        """Position, keyword, or a default that is left out: the same job."""
        names = data.draw(
            st.lists(st.sampled_from(string.ascii_lowercase), min_size=1, max_size=5, unique=True)
        )
        values = data.draw(st.lists(VALUES, min_size=len(names), max_size=len(names)))
        required = data.draw(st.integers(0, len(names)))
        signature = Signature(
            [
                Parameter(
                    name,
                    Parameter.POSITIONAL_OR_KEYWORD,
                    default=Parameter.empty if index < required else value,
                )
                for index, (name, value) in enumerate(zip(names, values, strict=True))
            ]
        )
        cut = data.draw(st.integers(0, len(names)))
        kwargs = dict(zip(names[cut:], values[cut:], strict=True))
        for name in names[max(cut, required) :]:
            if data.draw(st.booleans()):
                del kwargs[name]
        spec = data.draw(st.permutations(names))
        assert keys.key_of(names, signature, values, {}) == keys.key_of(
            spec, signature, values[:cut], dict(reversed(kwargs.items()))
        )

    @given(st.dictionaries(st.sampled_from("abc"), LOOKALIKES), st.data())
    def test_payloads_agree_exactly_when_the_arguments_do(
        self, one: dict[str, Any], data: st.DataObject
    ) -> None:
        """A payload digest tells apart what arrives as another value of any argument."""
        other = {name: data.draw(st.just(value) | LOOKALIKES) for name, value in one.items()}
        signature = Signature([Parameter(name, Parameter.KEYWORD_ONLY) for name in one])
        alike = same(arriving(one), arriving(other))
        made = [keys.payload_digest(None, signature, (), arguments) for arguments in (one, other)]
        assert (made[0] == made[1]) is alike

    @given(LOOKALIKES.filter(lambda value: value is not None and value != ""), st.integers())
    def test_names_and_values_never_meet(self, value: Any, argument: int) -> None:
        """No answer of a callable is the key of named arguments."""
        signature = Signature([Parameter("a", Parameter.POSITIONAL_OR_KEYWORD)])
        named = keys.key_of(("a",), signature, (argument,), {})
        assert named != keys.key_of(lambda a: value, signature, (argument,), {})


PLAIN_IDS = st.text(st.characters() | st.sampled_from(":@="), max_size=70)


@given(PLAIN_IDS, PLAIN_IDS, st.sampled_from(["t", "t:", "t:x", "shop.charge"]))
@example("=" + keys.digest("x" * 65), "x" * 65, "t")
def test_task_ids_keep_apart(one: str, other: str, task: str) -> None:
    """Two task ids share a record name only if they are, on the wire, one id."""
    alike = arriving(one) == arriving(other)
    made = keys.message_key("p", task, one), keys.message_key("p", task, other)
    assert (made[0] == made[1]) is alike
    assert all(name.isprintable() for name in made)


DIGESTS = st.none() | st.text(string.ascii_letters + string.digits + "-_", min_size=22, max_size=22)
HEADERS = st.builds(
    Header,
    task_id=st.text(),
    key_digest=DIGESTS,
    payload_digest=DIGESTS,
    hop=st.integers(0, MAX_HOP),
    store_id=st.none() | st.text(max_size=256),
)


class TestHeader:
    """The header of any message."""

    @given(HEADERS)
    def test_survives_the_wire(self, header: Header) -> None:
        """What was published is what is read."""
        assert Header.parse(arriving(header.encode()), header.task_id) == header

    @given(HEADERS, st.text())
    def test_is_read_for_its_own_message_only(self, header: Header, task_id: str) -> None:
        """A header forwarded to another message is not trusted."""
        parsed = Header.parse(header.encode(), task_id)
        assert parsed == (header if task_id == header.task_id else None)

    @given(VALUES, st.text())
    def test_never_raises(self, value: Any, task_id: str) -> None:
        """Whatever a stranger puts there, reading it raises nothing."""
        assert Header.parse(value, task_id) is None or isinstance(value, list | tuple)

    @given(HEADERS, st.integers(0, 5), VALUES)
    def test_one_strange_field_never_raises(
        self, header: Header, position: int, field: Any
    ) -> None:
        """One field replaced by anything is read as the format says, or the whole is absent."""
        value: list[Any] = list(header.encode())
        value[position] = field
        parsed = Header.parse(value, header.task_id)
        if parsed is not None:
            assert parsed.format == FORMAT
            assert same(parsed.encode(), list(value))
