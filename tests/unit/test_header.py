"""The header that a message carries about its own identity."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reliable_tasks.core.header import FORMAT, MAX_ABANDONED, MAX_HOP, NAME, Header

DIGEST = "AbCdEfGhIjKlMnOpQr-_09"
GOOD: list[Any] = [1, "id-1", DIGEST, DIGEST, 2, "redis:1"]


def changed(**by_position: Any) -> list[Any]:
    value = list(GOOD)
    for position, field in by_position.items():
        value[int(position.removeprefix("f"))] = field
    return value


def test_layout() -> None:
    """Name and layout are a format that every release shares."""
    header = Header("id-1", DIGEST, None, 2, "redis:1")
    assert (NAME, FORMAT) == ("reliable_tasks", 1)
    assert header.encode() == [1, "id-1", DIGEST, None, 2, "redis:1"]
    assert Header("id-1").encode() == [1, "id-1", None, None, 0, None]


def test_round_trip_over_json() -> None:
    """What was published is what is read."""
    header = Header("id-1", DIGEST, DIGEST, 3, "redis:1")
    assert Header.parse(json.loads(json.dumps(header.encode())), "id-1") == header
    assert Header.parse(tuple(header.encode()), "id-1") == header


def test_next_hop() -> None:
    """A successor differs in its hop alone."""
    header = Header("id-1", DIGEST, None, 3, "s")
    assert header.next_hop() == Header("id-1", DIGEST, None, 4, "s")
    assert header.hop == 3


def test_next_hop_names_what_was_abandoned() -> None:
    """Only the next message names it, as one more field; of many the last."""
    header = Header("id-1", DIGEST, None, 3, "s").next_hop(["12", "34"])
    assert header.encode() == [1, "id-1", DIGEST, None, 4, "s", ["12", "34"]]
    assert Header.parse(json.loads(json.dumps(header.encode())), "id-1") == header
    assert header.next_hop().abandoned == ()

    many = [str(number) for number in range(MAX_ABANDONED + 1)]
    assert header.next_hop(many).abandoned == tuple(many[1:])


@pytest.mark.parametrize(
    "value",
    [None, 5, "12", {"12": 1}, [12], [""], ["1" * 65], [["1"]], ["1"] * (MAX_ABANDONED + 1)],
)
def test_malformed_abandoned_deliveries_are_none(value: object) -> None:
    """They spare a crash at most: the rest of the header is believed without them."""
    parsed = Header.parse([*GOOD, value], "id-1")
    assert parsed == Header.parse(GOOD, "id-1")
    assert parsed is not None
    assert parsed.abandoned == ()


def test_another_messages_header_is_not_trusted() -> None:
    """Headers that a user forwarded from another task carry no identity."""
    assert Header.parse(GOOD, "id-2") is None


def test_newer_format_is_not_guessed() -> None:
    """A format of a later release is left alone, and so the key is derived anew."""
    assert Header.parse(changed(f0=2), "id-1") is None


def test_fields_added_later_are_ignored() -> None:
    """A later release may add fields at the end without a new format."""
    newer = [*GOOD, [], 0, "new", {"more": 1}]
    assert Header.parse(newer, "id-1") == Header.parse(GOOD, "id-1")


@pytest.mark.parametrize("turn", [1, MAX_HOP, -1, -MAX_HOP])
def test_turn_travels(turn: int) -> None:
    """A message's turn arrives, also in a successor."""
    header = Header("id-1", turn=turn)
    assert Header.parse(header.encode(), "id-1") == header
    assert header.next_hop().turn == turn


@pytest.mark.parametrize("value", [None, "1", 1.0, True, MAX_HOP + 1, -MAX_HOP - 1, []])
def test_malformed_turn_is_none(value: object) -> None:
    """What is no turn is as none: the rest of the header is believed."""
    assert Header.parse([*GOOD, [], value], "id-1") == Header.parse(GOOD, "id-1")


@pytest.mark.parametrize("hop", [0, MAX_HOP])
def test_hops_in_range(hop: int) -> None:
    """Every hop that Lua counts exactly is accepted."""
    parsed = Header.parse(changed(f4=hop), "id-1")
    assert parsed is not None
    assert parsed.hop == hop


@pytest.mark.parametrize(
    "value",
    [
        None, 0, "", b"", "[1]", [], {}, GOOD[:5], dict(enumerate(GOOD)),
        changed(f0=True), changed(f0=1.0), changed(f0="1"), changed(f0=0), changed(f0=None),
        changed(f1=None), changed(f1=b"id-1"), changed(f1=["id-1"]),
        changed(f2="short"), changed(f2=DIGEST + "x"), changed(f2="x" * 21 + ":"),
        changed(f2="x:" + "x" * 20), changed(f2="\u00e9" * 22), changed(f2=5), changed(f2=""),
        changed(f3="short"), changed(f3=b"x" * 22), changed(f3="x" * 10 + " " + "x" * 11),
        changed(f4=-1), changed(f4=True), changed(f4=1.0), changed(f4="1"), changed(f4=None),
        changed(f4=MAX_HOP + 1), changed(f4=float("nan")),
        changed(f5=5), changed(f5="x" * 257), changed(f5=["s"]),
    ],
    ids=repr,
)  # fmt: skip
def test_malformed_header_is_absent(value: object) -> None:
    """A header that a stranger wrote is treated as absent and raises nothing."""
    assert Header.parse(value, "id-1") is None


def test_is_immutable() -> None:
    """A header cannot be changed after it was made."""
    with pytest.raises(AttributeError):
        Header("id-1").hop = 1  # type: ignore[misc]
