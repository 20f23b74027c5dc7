"""Keys: which calls are the same job, and what is refused."""

# ruff: noqa: DTZ001 - naive datetimes are a subject here
from __future__ import annotations

import base64
import enum
import hashlib
import inspect
import itertools
import re
import time as clock
import uuid
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from inspect import Signature
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest.mock import Mock
from zoneinfo import ZoneInfo

import pytest
from kombu.utils.json import dumps, loads

from reliable_tasks.core import keys
from reliable_tasks.errors import ConfigurationError, UnserializableArguments

UID = uuid.UUID("12345678-1234-5678-1234-567812345678")
SUMMER = datetime(2024, 7, 1, 12, 0, tzinfo=UTC)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    ONE = "1"


class Money:
    """A type of the user's own that knows how to be sent."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __json__(self) -> dict[str, int]:
        return {"cents": self.cents}


class Broken:
    """A type whose own way of being sent does not end."""

    def __json__(self) -> Broken:
        return self


@dataclass
class Order:
    id: int


class Point(NamedTuple):
    x: int
    y: int


CANONICAL: dict[str, tuple[object, str]] = {
    "none": (None, "null"),
    "int": (1, "1"),
    "float": (1.0, "1.0"),
    "not a number": (float("nan"), "NaN"),
    "infinity": (float("-inf"), "-Infinity"),
    "bool": (True, "true"),
    "str": ('a"\u00e9\U0001f600', r'"a\"\u00e9\ud83d\ude00"'),
    "nested": ({"b": [1, ("x",)], "a": {}}, '{"a":{},"b":[1,["x"]]}'),
    "order of member names": (
        {"\U0001f600": 1, "\uffff": 2, "z": 3},
        r'{"\ud83d\ude00":1,"\uffff":2,"z":3}',
    ),
    "datetime": (SUMMER, '{"__type__":"datetime","__value__":"2024-07-01T12:00:00+00:00"}'),
    "date": (date(2024, 7, 1), '{"__type__":"date","__value__":"2024-07-01"}'),
    "time": (time(8, 30), '{"__type__":"time","__value__":"08:30:00"}'),
    "decimal": (Decimal("1.00"), '{"__type__":"decimal","__value__":"1.00"}'),
    "UUID": (UID, '{"__type__":"uuid","__value__":{"hex":"12345678123456781234567812345678"}}'),
    "bytes": (b"x", '{"__type__":"bytes","__value__":"x"}'),
    "other bytes": (b"\xff", '{"__type__":"base64","__value__":"/w=="}'),
}

ALIKE: dict[str, tuple[object, object]] = {
    "tuple": ((1, (2, 3)), [1, [2, 3]]),
    "named tuple": (Point(1, 2), [1, 2]),
    "int as member name": ({1: "a"}, {"1": "a"}),
    "other member names": ({True: 0, None: 1, 1.5: 2}, {"true": 0, "null": 1, "1.5": 2}),
    "order of members": ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}),
    "the later of two names": ({1: "first", "1": "second"}, {"1": "second"}),
    "ordered dict": (OrderedDict(a=1), {"a": 1}),
    "default dict": (defaultdict(int, a=1), {"a": 1}),
    "IntEnum": (Level.LOW, 1),
    "StrEnum": (Word.ONE, "1"),
    "enums inside": ({Level.LOW: {Word.ONE: 1}}, {"1": {"1": 1}}),
    "own type": (Money(5), {"cents": 5}),
    "own type inside": ([Money(5)], [{"cents": 5}]),
    "surrogate pair": ("\ud83d\ude00", "\U0001f600"),
    "surrogate pair as name": (
        {"\ud83d\ude00": 1, "\uffff": 2},
        {"\uffff": 2, "\U0001f600": 1},
    ),
    "fold": (datetime(2024, 10, 27, 2, 30, fold=1), datetime(2024, 10, 27, 2, 30)),
    "name of the zone": (
        datetime(2024, 7, 1, 14, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime(2024, 7, 1, 14, tzinfo=timezone(timedelta(hours=2))),
    ),
    "datetime envelope": (SUMMER, {"__type__": "datetime", "__value__": "2024-07-01T12:00:00Z"}),
    "date envelope": (date(2024, 7, 1), {"__type__": "date", "__value__": "2024-07-01T08:00"}),
    "time envelope": (time(8, 30), {"__value__": "08:30", "__type__": "time"}),
    "decimal envelope": (Decimal("1.50"), {"__type__": "decimal", "__value__": "1.50"}),
    "UUID envelope": (UID, {"__type__": "uuid", "__value__": {"int": UID.int}}),
    "base64 envelope": (b"hello", {"__type__": "base64", "__value__": "aGVsbG8="}),
    "bytes envelope": (b"hello", {"__type__": "bytes", "__value__": "hello"}),
}


def charge(order_id: int, cents: int = 100, *, currency: str = "EUR") -> None:
    """A task's function."""


CHARGE = inspect.signature(charge)


REFUSED: list[tuple[object, str]] = [
    (Order(1), f"{__name__}.Order"),
    (Order, "type"),
    (object(), "object"),
    (Colour.RED, f"{__name__}.Colour"),
    ({1, 2}, "set (a sorted list works)"),
    (frozenset(), "frozenset (a sorted list works)"),
    ((number for number in range(2)), "generator"),
    (charge, "function"),
    (len, "builtin_function_or_method"),
    (range(3), "range"),
    (1j, "complex"),
    (bytearray(b"x"), "bytearray"),
    (memoryview(b"x"), "memoryview"),
    (timedelta(1), "datetime.timedelta"),
    (Fraction(1, 2), "fractions.Fraction"),
    (MappingProxyType({}), "mappingproxy"),
    ({}.keys(), "dict_keys"),
    (ValueError("x"), "ValueError"),
    (Mock(spec=dict), "unittest.mock.Mock"),
    (Mock(spec=datetime), "unittest.mock.Mock"),
    (10**5000, "int with too many digits for JSON"),
    ({(1, 2): 3}, "mapping with a key of type tuple"),
    ({UID: 3}, "mapping with a key of type uuid.UUID"),
    ({b"x": 3}, "mapping with a key of type bytes"),
]


def digest_of_text(text: str) -> str:
    """The hash alone, written in another way."""
    raw = hashlib.blake2b(text.encode("ascii"), digest_size=16).digest()
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def digest_of_call(spec: keys.KeySpec, *args: Any, **kwargs: Any) -> str:
    return keys.key_of(spec, CHARGE, args, kwargs)


class TestDigest:
    """The digest of one value."""

    @pytest.mark.parametrize(("value", "text"), CANONICAL.values(), ids=CANONICAL)
    def test_is_a_format(self, value: object, text: str) -> None:
        """The canonical text stays what it was: the next release finds the records of the last."""
        assert keys.digest(value) == digest_of_text(text)

    def test_hash_is_a_format(self) -> None:
        """The hash stays what it was."""
        assert keys.digest(1) == "zqOHijNLJARp0Vn_hAtkNA"
        assert keys.digest("order-123") == "DXtFJOJLlwAOaz23YzIBcA"

    def test_fits_into_a_record_name(self) -> None:
        """A digest is 22 characters of base64url, without padding."""
        for number in range(500):
            assert re.fullmatch(r"[A-Za-z0-9_-]{22}", keys.digest(number))

    def test_values_of_different_types_differ(self) -> None:
        """No two of these look-alikes share a digest."""
        lookalikes: list[object] = [
            1, 1.0, True, "1", "1.0", "true", "True", b"1", Decimal(1), Decimal("1.0"),
            Decimal("1.00"), [1], [[1]], {"1": None}, {"1": 1},
            0, -0.0, 0.0, False, "", b"", [], {}, [[]], [{}], None, "null", "None", [None],
            float("nan"), "NaN", Decimal("NaN"), float("inf"), "Infinity", Decimal("Infinity"),
            float("-inf"), 10**20, 1e20, str(10**20),
            UID, str(UID), UID.hex, UID.bytes, {"hex": UID.hex},
            date(2024, 1, 1), datetime(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC), time(0, 0),
            time(0, 0, tzinfo=UTC), "2024-01-01", "2024-01-01T00:00:00", "00:00:00",
            b"\xff", "\xff", "/w==", "arguments", [["order_id", 1]], ["order_id", 1],
            "\ud83d", "\ude00", "\U0001f600", "\\ud83d", "e\u0301", "\xe9",
        ]  # fmt: skip
        digests = [keys.digest(value) for value in lookalikes]
        for (i, one), (j, other) in itertools.combinations(enumerate(digests), 2):
            assert one != other, (lookalikes[i], lookalikes[j])

    @pytest.mark.parametrize(("one", "other"), ALIKE.values(), ids=ALIKE)
    def test_values_that_arrive_alike_agree(self, one: object, other: object) -> None:
        """What a worker cannot tell apart has one digest."""
        assert keys.digest(one) == keys.digest(other)
        assert keys.digest(one) == keys.digest(loads(dumps(one)))

    def test_same_instant_in_another_zone_is_another_value(self) -> None:
        """An aware datetime keeps its offset on the wire, and so in the key."""
        berlin = SUMMER.astimezone(ZoneInfo("Europe/Berlin"))
        assert berlin == SUMMER
        assert keys.digest(berlin) != keys.digest(SUMMER)

    def test_an_offset_that_does_not_survive_is_keyed_as_it_arrives(self) -> None:
        """The wire loses an offset of one negative microsecond, and so does the key."""
        odd = timezone(timedelta(microseconds=-1))
        for value in (datetime(2024, 1, 1, tzinfo=odd), time(1, 2, tzinfo=odd)):
            assert keys.digest(value) == keys.digest(loads(dumps(value)))

    def test_subclasses_of_wrapped_types_are_keyed_as_they_arrive(self) -> None:
        """A datetime, date, decimal, UUID or bytes subclass arrives as its base."""

        class Stamp(datetime):
            pass

        class Day(date):
            pass

        class Amount(Decimal):
            pass

        class Name(uuid.UUID):
            pass

        class Blob(bytes):
            pass

        values = [Stamp(2024, 1, 1, 5), Day(2024, 1, 1), Amount("1.0"), Name(UID.hex), Blob(b"x")]
        for value in values:
            assert keys.digest(value) == keys.digest(loads(dumps(value)))

    def test_own_way_to_be_sent_comes_before_the_base_class(self) -> None:
        """A date with a __json__ method is keyed as what that method returns, as kombu sends it."""

        class Day(date):
            def __json__(self) -> str:
                return "some day"

        day = Day(2024, 1, 1)
        assert keys.digest(day) == keys.digest("some day") == keys.digest(loads(dumps(day)))

    def test_base_classes_that_json_knows_come_before_the_own_way(self) -> None:
        """A str with a __json__ method is a str, as JSON sends it."""

        class Name(str):
            __slots__ = ()

            def __json__(self) -> str:
                raise AssertionError("the serializer never asks a str")

        assert keys.digest(Name("x")) == keys.digest("x") == keys.digest(loads(dumps(Name("x"))))


class TestRefused:
    """Values that no key can be made of."""

    @pytest.mark.parametrize(
        ("value", "kind"),
        REFUSED,
        ids=[f"{number}-{kind}" for number, (_, kind) in enumerate(REFUSED)],
    )
    def test_error_names_argument_and_type(self, value: object, kind: str) -> None:
        """A value that is no JSON is refused with its place, its type and what to pass instead."""
        with pytest.raises(UnserializableArguments, match="Pass an id") as caught:
            digest_of_call(("order_id",), value)
        assert caught.value.argument == "order_id"
        assert caught.value.kind == kind

    def test_error_names_the_place_inside(self) -> None:
        """The place of a refused value inside an argument is told as Python would write it."""
        with pytest.raises(UnserializableArguments) as caught:
            digest_of_call(("order_id",), {"lines": [1, {2: Order(1)}]})
        assert caught.value.argument == "order_id['lines'][1]['2']"

    def test_only_named_arguments_must_have_a_form(self) -> None:
        """An argument outside the key may be anything."""
        assert digest_of_call(("order_id",), 1, object()) == digest_of_call(("order_id",), 1)

    @pytest.mark.parametrize("build", ["list", "dict", "object"])
    def test_recursion_is_refused(self, build: str) -> None:
        """A value that contains itself is refused and does not exhaust the stack."""
        ring: Any = {"list": [], "dict": {}, "object": Broken()}[build]
        if build == "list":
            ring.append(ring)
        if build == "dict":
            ring["self"] = ring
        with pytest.raises(UnserializableArguments, match="contains itself") as caught:
            keys.digest(ring)
        assert len(caught.value.argument) < 100

    def test_depth_is_bounded_and_the_bound_is_usable(self) -> None:
        """Up to 64 levels are keyed; one more is refused wherever the call stands."""
        value: list[Any] = []
        for _ in range(keys.MAX_DEPTH - 1):
            value = [value]
        assert keys.digest(value) == keys.digest(loads(dumps(value)))
        with pytest.raises(UnserializableArguments, match="deeper than 64 levels"):
            keys.digest([value])

    @pytest.mark.parametrize(
        "envelope",
        [
            {"__type__": "money", "__value__": 1},
            {"__type__": ["decimal"], "__value__": 1},
            {"__type__": None, "__value__": None},
            {"__type__": "datetime", "__value__": "yesterday"},
            {"__type__": "datetime", "__value__": 5},
            {"__type__": "time", "__value__": None},
            {"__type__": "date", "__value__": {"__type__": "date", "__value__": "2024-01-01"}},
            {"__type__": "decimal", "__value__": "one"},
            {"__type__": "uuid", "__value__": {"hex": "x"}},
            {"__type__": "uuid", "__value__": []},
            {"__type__": "bytes", "__value__": "\ud800"},
            {"__type__": "base64", "__value__": "a"},
        ],
        ids=str,
    )
    def test_unreadable_envelope_is_refused(self, envelope: dict[str, object]) -> None:
        """A mapping that a worker's serializer takes for a value and cannot read is refused."""
        with pytest.raises(Exception):  # noqa: B017, PT011 - kombu raises many kinds
            loads(dumps(envelope))
        with pytest.raises(UnserializableArguments, match="cannot read back") as caught:
            keys.digest(envelope)
        assert caught.value.__cause__ is not None

    def test_more_or_fewer_members_are_no_envelope(self) -> None:
        """A mapping is an envelope only with exactly the two members."""
        keys.digest({"__type__": "money", "__value__": 1, "more": 1})
        keys.digest({"__type__": "money"})

    def test_errors_of_the_users_own_code_come_through(self) -> None:
        """What a user's __json__ or tzinfo raises is neither hidden nor renamed."""

        class Failing:
            def __json__(self) -> object:
                raise RuntimeError("no database")

        class Nowhere(tzinfo):
            def utcoffset(self, when: datetime | None) -> timedelta:
                raise RuntimeError("no zone")

        with pytest.raises(RuntimeError, match="no database"):
            keys.digest(Failing())
        with pytest.raises(RuntimeError, match="no zone"):
            keys.digest(datetime(2024, 1, 1, tzinfo=Nowhere()))


class TestBind:
    """Arguments by name, with defaults."""

    def test_ways_to_write_one_call_agree(self) -> None:
        """Position, keyword and default give the same arguments in the order of the signature."""
        expected = {"order_id": 1, "cents": 100, "currency": "EUR"}
        ways: list[tuple[tuple[int, ...], dict[str, Any]]] = [
            ((1, 100), {}),
            ((1,), {"cents": 100}),
            ((), {"cents": 100, "order_id": 1}),
            ((1,), {}),
            ((1,), {"currency": "EUR"}),
        ]
        for args, kwargs in ways:
            bound = keys.bind(CHARGE, args, kwargs)
            assert list(bound.items()) == list(expected.items())

    def test_variadic_parameters(self) -> None:
        """*args arrive as a tuple and **kwargs as a dict, empty when nothing was passed."""
        signature = inspect.signature(lambda a, *rest, b=1, **more: None)
        assert keys.bind(signature, (1,), {}) == {"a": 1, "rest": (), "b": 1, "more": {}}
        assert keys.bind(signature, (1, 2, 3), {"b": 4, "c": 5}) == {
            "a": 1, "rest": (2, 3), "b": 4, "more": {"c": 5},
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [
            ((), {}),
            ((1, 2, 3), {}),
            ((1,), {"order_id": 1}),
            ((1,), {"amount": 1}),
            ((), {"cents": 1}),
            ((), {"cents": 1, "amount": 1}),
        ],
    )
    def test_call_that_does_not_fit(self, args: tuple[int, ...], kwargs: dict[str, int]) -> None:
        """A call that Python refuses is refused with TypeError."""
        with pytest.raises(TypeError):
            charge(*args, **kwargs)
        with pytest.raises(TypeError):
            keys.bind(CHARGE, args, kwargs)
        with pytest.raises(TypeError):
            digest_of_call(("order_id",), *args, **kwargs)

    def test_positional_only_name_is_free_for_keywords(self) -> None:
        """A positional-only parameter cannot be given by keyword."""
        signature = inspect.signature(lambda a, /, b=2: None)
        assert keys.bind(signature, (1,), {}) == {"a": 1, "b": 2}
        with pytest.raises(TypeError):
            keys.bind(signature, (), {"a": 1})

    def test_calls_do_not_share_what_is_remembered(self) -> None:
        """Changing one call's arguments leaves the next call's defaults alone."""
        keys.bind(CHARGE, (1,), {})["cents"] = 7
        assert keys.bind(CHARGE, (1,), {})["cents"] == 100

    def test_many_signatures_do_not_fill_the_memory(self) -> None:
        """What is remembered about signatures is bounded, and an id that is used again is safe."""
        for number in range(3 * keys._MAX_SHAPES):
            name = f"a{number % 7}"
            parameter = inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
            assert keys.bind(Signature([parameter]), (number,), {}) == {name: number}
        assert len(keys._shapes) <= keys._MAX_SHAPES


class TestKeyOf:
    """The key of one call."""

    def test_ways_to_write_one_call_are_one_job(self) -> None:
        """f(1, b=2), f(a=1, b=2) and defaults agree."""
        spec = ("order_id", "cents")
        assert (
            digest_of_call(spec, 1, 100)
            == digest_of_call(spec, 1, cents=100)
            == digest_of_call(spec, cents=100, order_id=1)
            == digest_of_call(spec, 1)
        )

    def test_is_a_format(self) -> None:
        """The text of named arguments stays what it was."""
        text = 'arguments[["cents",100],["order_id",1]]'
        assert digest_of_call(("order_id", "cents"), 1) == digest_of_text(text)

    def test_declared_order_and_repeats_do_not_matter(self) -> None:
        """The names are a set: a reordered declaration finds the old records."""
        assert (
            digest_of_call(("order_id", "cents"), 1)
            == digest_of_call(["cents", "order_id"], 1)
            == digest_of_call(("cents", "order_id", "cents"), 1)
        )

    def test_other_names_are_other_keys(self) -> None:
        """The same value under another name is another key, and so is a longer list of names."""
        one = keys.key_of(("order_id",), CHARGE, (5, 5), {})
        assert one != keys.key_of(("cents",), CHARGE, (5, 5), {})
        assert one != keys.key_of(("order_id", "cents"), CHARGE, (5, 5), {})

    def test_unnamed_arguments_do_not_count(self) -> None:
        """Only what is named makes the key."""
        assert digest_of_call(("order_id",), 1, 5) == digest_of_call(("order_id",), 1, 6)

    def test_string_and_callable_that_returns_it_agree(self) -> None:
        """A key made by hand and one made by a callable are the same kind of key."""
        made = digest_of_call(lambda order_id, cents, currency: f"order-{order_id}", 7)
        assert made == digest_of_call("order-7", 7) == keys.digest("order-7")

    def test_names_never_meet_a_value(self) -> None:
        """A callable that returns what names are made of inside is still another key."""
        named = digest_of_call(("order_id",), 1)
        for imitation in ([["order_id", 1]], 'arguments[["order_id",1]]', ["order_id", 1], 1):
            assert named != digest_of_call(lambda *_, result=imitation, **__: result, 1)

    def test_callable_gets_the_bound_call(self) -> None:
        """A callable sees defaults filled in, however the call was written."""
        seen: list[tuple[Any, ...]] = []

        def spec(*args: Any, **kwargs: Any) -> str:
            seen.append((args, kwargs))
            return "x"

        digest_of_call(spec, cents=5, order_id=1)
        digest_of_call(spec, 1, currency="USD")
        assert seen == [((1, 5), {"currency": "EUR"}), ((1, 100), {"currency": "USD"})]

    def test_callable_gets_variadic_arguments_spread(self) -> None:
        """*args and **kwargs reach the callable as they reach the task."""
        signature = inspect.signature(lambda a, *rest, b=1, **more: None)
        made = keys.key_of(lambda *a, **k: [a, k], signature, (1, 2), {"c": 3})
        assert made == keys.digest([[1, 2], {"b": 1, "c": 3}])

    @pytest.mark.parametrize("nothing", [None, ""])
    def test_empty_key_is_refused(self, nothing: object) -> None:
        """A callable that finds no key does not make all its calls one job."""
        with pytest.raises(ConfigurationError, match=f"got {nothing!r}"):
            digest_of_call(lambda *_, **__: nothing, 1)

    def test_empty_string_for_one_call_is_refused(self) -> None:
        """An empty key per call does not make all these calls one job."""
        with pytest.raises(ConfigurationError, match="idempotency_key: expected a string"):
            digest_of_call("", 1)

    def test_zero_and_false_are_keys(self) -> None:
        """Zero is a value."""
        assert digest_of_call(lambda *_, **__: 0, 1) == keys.digest(0)

    def test_unfit_answer_of_a_callable_is_refused(self) -> None:
        """A callable that returns an object is told what it returned."""
        with pytest.raises(UnserializableArguments) as caught:
            digest_of_call(lambda *_, **__: Order(1), 1)
        assert caught.value.argument == "returned by idempotency_key"

    def test_name_that_is_no_argument_is_a_clear_error(self) -> None:
        """Names that were never checked end in the same error as checked ones."""
        with pytest.raises(ConfigurationError, match="Did you mean 'order_id'"):
            digest_of_call(("order",), 1)


class TestPayload:
    """What must agree between jobs of one key."""

    def test_all_arguments_by_default(self) -> None:
        """None means every argument, defaults included."""
        everything = keys.payload_digest(None, CHARGE, (1,), {})
        assert everything == keys.payload_digest(
            ("currency", "cents", "order_id"), CHARGE, (1, 100), {"currency": "EUR"}
        )
        assert everything != keys.payload_digest(None, CHARGE, (1,), {"currency": "USD"})

    def test_no_arguments_compare_nothing(self) -> None:
        """With no names every call agrees."""
        one = keys.payload_digest((), CHARGE, (1,), {})
        assert one == keys.payload_digest((), CHARGE, (2,), {})

    def test_variadic_arguments_count(self) -> None:
        """What arrives in *args and **kwargs is compared too."""
        signature = inspect.signature(lambda *args, **kwargs: None)
        made = {
            keys.payload_digest(None, signature, args, kwargs)
            for args, kwargs in [((), {}), ((1,), {}), ((1, 2), {}), ((), {"a": 1})]
        }
        assert len(made) == 4


class TestCheckNames:
    """Names are checked when the task is declared."""

    def test_known_names_pass(self) -> None:
        """Any argument of the task can be named, whatever its kind."""
        keys.check_names(("order_id", "currency"), CHARGE)
        keys.check_names(("a", "b", "c", "d"), inspect.signature(lambda a, /, *b, c, **d: None))

    def test_unknown_name_says_what_was_expected(self) -> None:
        """The message has the option, the task's arguments, what came, and the nearest name."""
        with pytest.raises(ConfigurationError) as caught:
            keys.check_names(("oder_id",), CHARGE, option="same_payload")
        assert str(caught.value) == (
            "same_payload: expected names of the task's arguments (order_id, cents, currency), "
            "got 'oder_id'. Did you mean 'order_id'?"
        )

    def test_task_without_arguments(self) -> None:
        """A task that takes nothing has nothing to name, and the message says so."""
        with pytest.raises(ConfigurationError, match="the task takes no arguments"):
            keys.check_names(("x",), inspect.signature(lambda: None))

    def test_name_inside_double_star(self) -> None:
        """A name that could only arrive in **kwargs is refused with the way out."""
        with pytest.raises(ConfigurationError, match="give a callable"):
            keys.check_names(("order_id",), inspect.signature(lambda **kwargs: None))

    def test_string_is_no_list_of_names(self) -> None:
        """A forgotten comma is not read as one name per letter."""
        with pytest.raises(ConfigurationError, match=re.escape("Write ('order_id',)")):
            keys.check_names("order_id", CHARGE)

    def test_no_names_for_a_key(self) -> None:
        """A key of no arguments would make every call one job; same_payload may be empty."""
        with pytest.raises(ConfigurationError, match="at least one argument name"):
            keys.check_names((), CHARGE)
        keys.check_names((), CHARGE, option="same_payload")

    def test_name_that_is_no_string(self) -> None:
        """Something else among the names is refused in the same words."""
        with pytest.raises(ConfigurationError, match="got 5"):
            keys.check_names((5,), CHARGE)  # type: ignore[arg-type]


class TestRecordNames:
    """The names under which records are kept."""

    def test_layout(self) -> None:
        """The names are a format that every release shares."""
        assert keys.record_key("p", "shop.charge", "D" * 22) == "rt1:p:shop.charge:" + "D" * 22
        assert keys.message_key("p", "shop.charge", "id-1") == "rt1:p:shop.charge:@id-1"

    def test_message_and_key_never_meet(self) -> None:
        """No task id makes the name of a key's record, not even a digest as task id."""
        digest = keys.digest("x")
        assert keys.message_key("p", "t", digest) != keys.record_key("p", "t", digest)

    @pytest.mark.parametrize(
        "task_id",
        ["x" * 65, "a\nb", "a\x00b", "\x7f", "\x1b[31m", "\ud800", "=abc", "a:@b", "=", "\u202e"],
        ids=ascii,
    )
    def test_awkward_task_ids_are_digested(self, task_id: str) -> None:
        """Long, unprintable or ambiguous ids become a short name that is safe to print."""
        name = keys.message_key("p", "t", task_id)
        assert name == "rt1:p:t:@=" + keys.digest(task_id)
        assert name.encode("utf-8").decode().isprintable()

    @pytest.mark.parametrize("task_id", ["x" * 64, str(UID), "order:5", "a@b", "Auftrag-\xfc", ""])
    def test_other_task_ids_stay_readable(self, task_id: str) -> None:
        """An operator finds the record of an ordinary task id by its name."""
        assert keys.message_key("p", "t", task_id) == f"rt1:p:t:@{task_id}"

    def test_an_id_cannot_imitate_a_digested_one(self) -> None:
        """The id that spells another id's digested form has a record of its own."""
        long_id = "x" * 65
        imitation = "=" + keys.digest(long_id)
        assert keys.message_key("p", "t", imitation) != keys.message_key("p", "t", long_id)


def test_key_of_a_scalar_is_cheap() -> None:
    """A key of one integer costs a few microseconds: the best of many tries is under 60."""
    best = min(_seconds_per_key() for _ in range(20))
    assert best < 60e-6


def _seconds_per_key(rounds: int = 200) -> float:
    begin = clock.perf_counter()
    for number in range(rounds):
        digest_of_call(("order_id",), number)
    return (clock.perf_counter() - begin) / rounds
