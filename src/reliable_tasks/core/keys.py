"""
From the arguments of a call to the digest that names its job.

Two calls are the same job when the arguments that make up the key would reach a
worker as the same JSON text. So every value is first brought to the form in which
kombu's JSON serializer delivers it, and written as canonical text:

- no spaces, ASCII only (everything else escaped), mappings sorted by the escaped text
  of their keys;
- mapping keys as JSON writes them (``1`` and ``"1"`` are one key, and the later wins),
  a tuple as a list;
- numbers as Python's ``json`` writes them, so ``1``, ``1.0``, ``"1"`` and ``true`` differ;
- dates, times, decimals, UUIDs and bytes in kombu's own envelope
  (``{"__type__": "decimal", "__value__": "1.0"}``), decoded once and written again, so
  that an envelope written by hand and the value it stands for agree.

The digest is BLAKE2b with 16 bytes over that text, as unpadded base64url: 22 characters.
A key made of named arguments is the text ``arguments`` followed by the sorted list of
``[name, value]`` pairs, so it never equals the key of a plain value.
"""

from __future__ import annotations

import base64
import difflib
import inspect
import json
import uuid
from binascii import b2a_base64
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b
from inspect import Parameter, Signature
from json.encoder import encode_basestring_ascii as _quote
from typing import Any, TypeAlias

from reliable_tasks.errors import ConfigurationError, UnserializableArguments

__all__ = (
    "DIGEST_LENGTH",
    "MAX_DEPTH",
    "MAX_TASK_ID_LENGTH",
    "KeySpec",
    "bind",
    "check_names",
    "digest",
    "flight_key",
    "index_name",
    "is_record",
    "key_of",
    "limit_key",
    "message_key",
    "notes_key",
    "payload_digest",
    "process_key",
    "record_key",
    "replay_key",
    "shelf_name",
)

DIGEST_LENGTH = 22  # characters
MAX_DEPTH = 64  # levels of lists and mappings in one value
MAX_TASK_ID_LENGTH = 64  # characters; a longer task id is digested

KeySpec: TypeAlias = str | Sequence[str] | Callable[..., object]
"""A key given for one call, the names of arguments, or a callable that makes the key."""

_SHELF = "{dead-letters}"  # the braces keep it and its index on one node of a cluster
_INDEX = ":at"
_OTHERS = ("=budget", "=breaker", "=flight", "=notes", "=process", "=replay")
_MAX_STEPS = 6  # of a path in an error; the rest of a deep path helps nobody
_MAX_SHAPES = 4096  # signatures remembered; a process has far fewer tasks
_URLSAFE = bytes.maketrans(b"+/", b"-_")


# --- the digest ---------------------------------------------------------------------------


def digest(value: object) -> str:
    """
    Digest of one value in its canonical form.

    Args:
        value: Anything that kombu's JSON serializer can carry.

    Returns:
        22 characters of base64url. Equal for values that reach a worker as the same JSON.

    Raises:
        UnserializableArguments: The value, or something in it, has no such form.
    """
    return _digest_as("value", value)


def _digest_as(name: str, value: object) -> str:
    return _hash(_named_text(name, value))


def _named_text(name: str, value: object) -> str:
    try:
        return _text(value, 0)
    except _Refused as refused:
        raise UnserializableArguments(refused.path(name), refused.kind) from refused.__cause__


def _hash(text: str) -> str:
    raw = blake2b(text.encode("ascii"), digest_size=16).digest()
    return b2a_base64(raw, newline=False)[:DIGEST_LENGTH].translate(_URLSAFE).decode("ascii")


# --- the canonical text -------------------------------------------------------------------


class _Refused(Exception):
    """A value without canonical form; each container adds its step on the way out."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind
        self.steps: list[str] = []

    def path(self, name: str) -> str:
        steps = self.steps[::-1]
        return name + "".join(steps[:_MAX_STEPS]) + ("..." if len(steps) > _MAX_STEPS else "")


def _text(value: object, depth: int) -> str:
    cls = type(value)
    write = _WRITERS.get(cls)
    return (write or _writer_for(cls))(value, depth)


def _writer_for(cls: type) -> _Writer:
    """Find the writer of a subclass, in the order in which the serializer asks."""
    for base in _JSON_BASES:
        if issubclass(cls, base):
            return _WRITERS[base]
    if getattr(cls, "__json__", None) is not None:
        return _reduced
    for base in _ENVELOPE_BASES:
        if issubclass(cls, base):
            return _WRITERS[base]
    return _refuse


def _string(value: str, _depth: int) -> str:
    return _quote(value)


def _integer(value: int, _depth: int) -> str:
    try:
        return int.__repr__(value)
    except ValueError as exc:  # Python's limit on the digits of a number
        raise _Refused("int with too many digits for JSON") from exc


def _float(value: float, _depth: int) -> str:
    text = float.__repr__(value)
    return _NO_NUMBERS.get(text, text)


def _array(value: Sequence[object], depth: int) -> str:
    depth = _deeper(depth)
    parts: list[str] = []
    for index, item in enumerate(value):
        try:
            parts.append(_text(item, depth))
        except _Refused as refused:
            refused.steps.append(f"[{index}]")
            raise
    return "[" + ",".join(parts) + "]"


def _object(value: Mapping[object, object], depth: int) -> str:
    depth = _deeper(depth)
    items = {_member_name(name): item for name, item in value.items()}
    parts: list[str] = []
    for name in sorted(items):
        try:
            parts.append(f"{name}:{_text(items[name], depth)}")
        except _Refused as refused:
            refused.steps.append(f"[{json.loads(name)!r}]")
            raise
    text = "{" + ",".join(parts) + "}"
    return _opened(text, depth) if items.keys() == _ENVELOPE_NAMES else text


def _member_name(name: object) -> str:
    """Write the key of a mapping as JSON does: always as a string."""
    if isinstance(name, str):
        return _quote(name)
    if name is None or isinstance(name, int | float):
        return f'"{_text(name, 0)}"'
    raise _Refused(f"mapping with a key of type {_kind(type(name))}")


def _deeper(depth: int) -> int:
    if depth >= MAX_DEPTH:
        raise _Refused(f"value that contains itself or is nested deeper than {MAX_DEPTH} levels")
    return depth + 1


def _reduced(value: Any, depth: int) -> str:
    """Write what the object's ``__json__`` method returns, as kombu does."""
    return _text(value.__json__(), _deeper(depth))


def _refuse(value: object, _depth: int) -> str:
    hint = " (a sorted list works)" if isinstance(value, set | frozenset) else ""
    raise _Refused(_kind(type(value)) + hint)


def _kind(cls: type) -> str:
    return (
        cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    )


# --- envelopes: the types that kombu wraps ------------------------------------------------


def _envelope(marker: str, encode: Callable[[Any], object]) -> _Writer:
    """Make the writer of a wrapped type; decoding once shows what a worker would get."""
    decode = _DECODERS[marker]

    def write(value: object, _depth: int) -> str:
        try:
            arriving = decode(encode(value))
        except _UNREADABLE as exc:
            raise _Refused(f"{_kind(type(value))} that kombu cannot read back") from exc
        return f'{{"__type__":"{marker}","__value__":{_text(encode(arriving), 0)}}}'

    return write


def _bytes(value: bytes, _depth: int) -> str:
    try:
        marker, body = "bytes", str(value, "utf-8")
    except UnicodeDecodeError:
        marker, body = "base64", base64.b64encode(value).decode("ascii")
    return f'{{"__type__":"{marker}","__value__":{_quote(body)}}}'


def _opened(text: str, depth: int) -> str:
    """Write the value that an envelope stands for; a worker never sees the mapping."""
    try:
        value = json.loads(text, object_hook=_decoded)
    except _UNREADABLE as exc:
        kind = "mapping of __type__ and __value__ that kombu cannot read back"
        raise _Refused(kind) from exc
    return _text(value, depth)


def _decoded(members: dict[str, Any]) -> object:
    if members.keys() != {"__type__", "__value__"}:
        return members
    return _DECODERS[members["__type__"]](members["__value__"])


_DECODERS: dict[str, Callable[[Any], object]] = {
    "datetime": datetime.fromisoformat,
    "date": lambda text: datetime.fromisoformat(text).date(),
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": lambda fields: uuid.UUID(**fields),
    "bytes": lambda text: text.encode("utf-8"),
    "base64": lambda text: base64.b64decode(text.encode("utf-8")),
}

_Writer: TypeAlias = Callable[[Any, int], str]

_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
_NO_NUMBERS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_ENVELOPE_NAMES = {'"__type__"', '"__value__"'}
_JSON_BASES: tuple[type, ...] = (str, int, float, list, tuple, dict)
_ENVELOPE_BASES: tuple[type, ...] = (datetime, date, time, Decimal, uuid.UUID, bytes)
_WRITERS: dict[type, _Writer] = {
    type(None): lambda _value, _depth: "null",
    bool: lambda value, _depth: "true" if value else "false",
    str: _string,
    int: _integer,
    float: _float,
    list: _array,
    tuple: _array,
    dict: _object,
    datetime: _envelope("datetime", datetime.isoformat),
    date: _envelope("date", lambda day: day.isoformat()),
    time: _envelope("time", lambda moment: moment.isoformat()),
    Decimal: _envelope("decimal", str),
    uuid.UUID: _envelope("uuid", lambda value: {"hex": value.hex}),
    bytes: _bytes,
}


# --- the call -----------------------------------------------------------------------------


def bind(signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """
    Arguments by parameter name, with defaults filled in.

    ``f(1, b=2)``, ``f(a=1, b=2)`` and, where 2 is the default, ``f(1)`` are bound alike.
    A ``*args`` parameter holds a tuple, a ``**kwargs`` parameter a dict.

    Args:
        signature: Of the task's function, without ``self`` for a bound task. Keep one
            object per task: what is worked out about it is remembered by identity.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.

    Raises:
        TypeError: The call does not fit the signature.
    """
    shape = _shape_of(signature)
    count = len(args)
    if count < len(shape.rules):
        needed, allowed = shape.rules[count]
        if needed <= kwargs.keys() <= allowed:
            bound = shape.template.copy()
            bound.update(zip(shape.positional, args, strict=False))
            bound.update(kwargs)
            return bound
    full = signature.bind(*args, **kwargs)
    full.apply_defaults()
    return dict(full.arguments)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What `bind` needs to know about a signature, worked out once."""

    signature: Signature
    positional: tuple[str, ...]
    template: dict[str, Any]  # every parameter in order, with its default where it has one
    rules: tuple[tuple[frozenset[str], frozenset[str]], ...]
    # rules[n]: the keywords that a call with n positional arguments needs, and may have


_shapes: dict[int, _Shape] = {}  # by id; an entry keeps its signature, so the id stays taken


def _shape_of(signature: Signature) -> _Shape:
    shape = _shapes.get(id(signature))
    if shape is None:
        if len(_shapes) >= _MAX_SHAPES:
            _shapes.clear()
        shape = _shapes[id(signature)] = _make_shape(signature)
    return shape


def _make_shape(signature: Signature) -> _Shape:
    parameters = list(signature.parameters.values())
    positional = tuple(p.name for p in parameters if p.kind in _POSITIONAL)
    if any(p.kind in _VARIADIC for p in parameters):
        return _Shape(signature, positional, {}, ())
    rules = tuple(_keywords(parameters, positional[:count]) for count in range(len(positional) + 1))
    return _Shape(signature, positional, {p.name: p.default for p in parameters}, rules)


def _keywords(
    parameters: Iterable[Parameter], given: Sequence[str]
) -> tuple[frozenset[str], frozenset[str]]:
    open_ones = [p for p in parameters if p.name not in given]
    needed = frozenset(p.name for p in open_ones if p.default is Parameter.empty)
    allowed = frozenset(p.name for p in open_ones if p.kind is not Parameter.POSITIONAL_ONLY)
    return needed, allowed


_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


# --- keys and payloads --------------------------------------------------------------------


def key_of(
    spec: KeySpec, signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> str:
    """
    Digest of the key of one call.

    A string given for one call and a callable that returns the same string are one key.
    The order in which names are declared does not matter.

    Args:
        spec: A key for this call (a string), names of arguments, or a callable. The callable
            gets the arguments as the task would, with defaults filled in: everything that can
            be positional is passed by position.
        signature: Of the task's function, without ``self`` for a bound task.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.

    Raises:
        TypeError: The call does not fit the signature.
        UnserializableArguments: A named argument, or what the callable returned, has no
            canonical form.
        ConfigurationError: The key is empty or None.
    """
    if isinstance(spec, str):
        return _value_key("idempotency_key", spec)
    if callable(spec):
        return _value_key("returned by idempotency_key", _call(spec, signature, args, kwargs))
    return _names_digest(tuple(spec), signature, bind(signature, args, kwargs))


def payload_digest(
    names: Sequence[str] | None,
    signature: Signature,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> str:
    """
    Digest of the arguments that must agree between jobs of one key.

    Args:
        names: Names of arguments; None: all of them.
        signature: Of the task's function, without ``self`` for a bound task.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.

    Raises:
        TypeError: The call does not fit the signature.
        UnserializableArguments: One of the arguments has no canonical form.
    """
    chosen = tuple(signature.parameters if names is None else names)
    return _names_digest(chosen, signature, bind(signature, args, kwargs))


def _value_key(name: str, value: object) -> str:
    if value is None or value == "":
        raise ConfigurationError(
            f"{name}: expected a string that is not empty, got {value!r}. Every call with this "
            "key would be the same job; leave the key out if each message is a job of its own."
        )
    return _digest_as(name, value)


def _call(
    spec: Callable[..., object],
    signature: Signature,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> object:
    bound = inspect.BoundArguments(signature, OrderedDict(bind(signature, args, kwargs)))
    return spec(*bound.args, **bound.kwargs)


def _names_digest(names: tuple[str, ...], signature: Signature, bound: Mapping[str, Any]) -> str:
    try:
        pairs = [f"{head}{_named_text(name, bound[name])}]" for name, head in _heads(names)]
    except KeyError:
        check_names(names, signature)
        raise
    return _hash("arguments[" + ",".join(pairs) + "]")


@lru_cache(maxsize=1024)
def _heads(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((name, f"[{_quote(name)},") for name in sorted(set(names)))


def check_names(
    names: Sequence[str], signature: Signature, *, option: str = "idempotency_key"
) -> None:
    """
    Refuse names that are no arguments of the task; called when a task is declared.

    Args:
        names: What the option was set to.
        signature: Of the task's function, without ``self`` for a bound task.
        option: Name of the option, for the message.

    Raises:
        ConfigurationError: A name is unknown, or this is no sequence of names.
    """
    if isinstance(names, str):
        raise ConfigurationError(
            f"{option}: expected a tuple of argument names, got the string {names!r}. "
            f"Write ({names!r},) for one argument."
        )
    if not names and option == "idempotency_key":
        raise ConfigurationError(
            "idempotency_key: expected at least one argument name, got none. Every call would be "
            "the same job; if that is meant, give a callable that returns a fixed string."
        )
    for name in names:
        if name not in signature.parameters:
            raise ConfigurationError(_unknown_name(option, name, signature))


def _unknown_name(option: str, name: object, signature: Signature) -> str:
    known = list(signature.parameters)
    listed = ", ".join(known) or "none: the task takes no arguments"
    near = difflib.get_close_matches(str(name), known, n=1)
    advice = f" Did you mean {near[0]!r}?" if near else ""
    if any(p.kind is Parameter.VAR_KEYWORD for p in signature.parameters.values()):
        advice += " What arrives in a ** parameter has no declared name: give a callable instead."
    return f"{option}: expected names of the task's arguments ({listed}), got {name!r}.{advice}"


# --- names of records ---------------------------------------------------------------------


def record_key(prefix: str, task_name: str, digest: str) -> str:
    """Name of the record of a key."""
    return f"rt1:{prefix}:{task_name}:{digest}"


def message_key(prefix: str, task_name: str, task_id: str) -> str:
    """
    Name of the record of a job whose identity is its message.

    Never equals a `record_key` of the same task, for ``@`` is not in base64url.
    A task id that is long, not printable, or could be mistaken for another is digested.
    """
    if (
        len(task_id) <= MAX_TASK_ID_LENGTH
        and task_id.isprintable()
        and ":@" not in task_id
        and task_id[:1] != "="
    ):
        return f"rt1:{prefix}:{task_name}:@{task_id}"
    return f"rt1:{prefix}:{task_name}:@={digest(task_id)}"


def shelf_name(prefix: str) -> str:
    """Name of the shelf on which a project's dead letters are kept."""
    return f"rt1:{prefix}:{_SHELF}"


def index_name(shelf: str) -> str:
    """Name of what places the letters of a *shelf* in time."""
    return shelf + _INDEX


def limit_key(prefix: str, kind: str, name: str) -> str:
    """Name of what a store counts for the ``budget`` or ``breaker`` called *name*."""
    return f"rt1:{prefix}:={kind}:{name}"


def flight_key(prefix: str, task_id: str) -> str:
    """Name of what the flight recorder notes of a job."""
    return f"rt1:{prefix}:=flight:{task_id}"


def notes_key(prefix: str, task_id: str) -> str:
    """Name of what is noted of a job's attempts, for the case that it becomes a dead letter."""
    return f"rt1:{prefix}:=notes:{task_id}"


def process_key(prefix: str, process: int) -> str:
    """Name of what a process with the number *process* says of itself."""
    return f"rt1:{prefix}:=process:{process}"


def replay_key(prefix: str, task_id: str, line: int) -> str:
    """Name of what knows which message of a replay of a job is the one that runs."""
    return f"rt1:{prefix}:=replay:{task_id}:{line}"


def is_record(name: bytes) -> bool:
    """Whether *name* is that of a record, among all that a server may hold."""
    first, *others = name.split(b":")
    is_other = len(others) > 2 and others[1].decode(errors="replace") in _OTHERS
    return first == b"rt1" and not _is_shelf(others) and not is_other


def _is_shelf(parts: list[bytes]) -> bool:
    return b":".join(parts[1:]) in (_SHELF.encode(), (_SHELF + _INDEX).encode())
