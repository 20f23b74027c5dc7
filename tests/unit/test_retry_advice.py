"""What a server says about trying again is heard, in whatever shape a client keeps it."""

from __future__ import annotations

import io
import urllib.error
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from email.message import Message
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import requests

from reliable_tasks.retry.advice import DO_NOT_RETRY, DoNotRetry, advised
from reliable_tasks.retry.attempts import Raised, Returned

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC).timestamp()


class Failure(Exception):
    """An error with whatever attributes a client gives it."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        vars(self).update(attributes)


def said_by(error: BaseException) -> float | DoNotRetry | None:
    return advised(Raised(error), NOW)


# --- where it stands ----------------------------------------------------------------------


def of_requests(name: str, value: str) -> BaseException:
    response = requests.Response()
    response.status_code = 429
    response.headers[name] = value
    return requests.HTTPError("429", response=response)


def of_httpx(name: str, value: str) -> BaseException:
    request = httpx.Request("POST", "https://gateway.test/charges")
    response = httpx.Response(503, headers={name: value}, request=request)
    return httpx.HTTPStatusError("503", request=request, response=response)


def of_urllib(name: str, value: str) -> BaseException:
    headers = Message()
    headers[name] = value
    return urllib.error.HTTPError("https://gateway.test", 503, "busy", headers, None)


def of_botocore(name: str, value: str) -> BaseException:
    headers = {name.lower(): value, "x-amzn-requestid": "7"}
    metadata = {"RetryAttempts": 0, "HTTPStatusCode": 503, "HTTPHeaders": headers}
    return Failure(response={"Error": {"Code": "SlowDown"}, "ResponseMetadata": metadata})


def of_aiohttp(name: str, value: str) -> BaseException:
    return Failure(status=429, headers={"Date": "some", name: value})


def of_pairs(name: str, value: str) -> BaseException:
    return Failure(headers=[("Date", "some"), (name, value)])


every_client = pytest.mark.parametrize(
    "client", [of_requests, of_httpx, of_urllib, of_botocore, of_aiohttp, of_pairs]
)


@every_client
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        (" 7 ", 7),
        ("1.5", 1.5),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30),
        ("Sun, 01 Mar 2026 14:00:30 +0200", 30),
        ("Sun, 01 Mar 2026 12:00:30 -0000", 30),
        ("Sunday, 01-Mar-26 12:00:30 GMT", 30),
        ("Sun Mar  1 12:00:30 2026", 30),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
    ],
)
def test_retry_after(client: Any, value: str, seconds: float) -> None:
    """Seconds, or an HTTP date in each of its forms; one that is over means now."""
    assert said_by(client("Retry-After", value)) == pytest.approx(seconds)


@every_client
def test_the_case_of_a_name_means_nothing(client: Any) -> None:
    """Header names are compared without their case, in mappings that know no better too."""
    assert said_by(client("retry-AFTER", "3")) == 3


@every_client
@pytest.mark.parametrize("name", ["Stripe-Should-Retry", "x-should-retry"])
@pytest.mark.parametrize(
    ("value", "answer"), [("false", DO_NOT_RETRY), ("False", DO_NOT_RETRY), ("true", None)]
)
def test_do_not_retry(client: Any, name: str, value: str, answer: object) -> None:
    """A server can ask to be left alone; that it can be asked again sets no wait."""
    assert said_by(client(name, value)) == answer


def test_do_not_retry_goes_before_a_wait() -> None:
    """A server that says both is left alone."""
    assert said_by(Failure(headers={"Retry-After": "3", "x-should-retry": "false"})) is DO_NOT_RETRY


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (30, 30),
        (0, 0),
        (2.5, 2.5),
        ("12", 12),
        (timedelta(minutes=1), 60),
        (datetime.fromtimestamp(NOW + 9, UTC), 9),
        (datetime.fromtimestamp(NOW + 9, timezone(timedelta(hours=5))), 9),
        (datetime.fromtimestamp(NOW + 9, UTC).replace(tzinfo=None), 9),
        (datetime.fromtimestamp(NOW - 9, UTC), 0),
        (10**400, 1e10),
    ],
)
def test_an_attribute(value: object, seconds: float) -> None:
    """`retry_after` of an error is a number, a duration, or a point in time; without a zone UTC."""
    assert said_by(Failure(retry_after=value)) == pytest.approx(seconds)


def test_an_attribute_goes_before_a_header() -> None:
    """Who makes an error with `retry_after` has read the response."""
    assert said_by(Failure(retry_after=4, headers={"Retry-After": "9"})) == 4
    assert said_by(Failure(retry_after=None, headers={"Retry-After": "9"})) == 9


@pytest.mark.parametrize(
    ("value", "answer"),
    [("0", 0), ("1500", 1.5), ("-1", DO_NOT_RETRY), ("soon", DO_NOT_RETRY), (b"7", DO_NOT_RETRY)],
)
def test_pushback_of_grpc(value: object, answer: object) -> None:
    """Pushback of gRPC is a wait in milliseconds; by its proposal A6 anything else is a refusal."""
    metadata = (("content-type", "application/grpc"), ("grpc-retry-pushback-ms", value))

    assert said_by(Failure(trailing_metadata=lambda: metadata)) == answer
    assert said_by(Failure(trailing_metadata=lambda: metadata[:1])) is None
    assert said_by(Failure(trailing_metadata=lambda: None)) is None
    assert said_by(Failure(trailing_metadata=metadata)) is None


def test_a_response_that_was_returned() -> None:
    """A function that returns the response instead of raising is heard too; no other value is."""
    headers = {"Retry-After": "8"}
    answers = [
        SimpleNamespace(status_code=429, headers=headers),
        SimpleNamespace(status=503, headers=headers),
        httpx.Response(429, headers=headers),
    ]

    assert [advised(Returned(answer), NOW) for answer in answers] == [8, 8, 8]
    for value in (None, {"headers": headers}, SimpleNamespace(headers=headers), "Retry-After: 8"):
        assert advised(Returned(value), NOW) is None


# --- what cannot be read ------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "", "soon", "-5", "1e3", "inf", "nan", "0x10", "5 s", "٣", "1" * 65, "9" * 10_000,
        "Sun, 31 Feb 2026 12:00:00 GMT", "Sun, 01 Mar 99999 12:00:00 GMT", "\x00", "12:00",
    ],
)  # fmt: skip
def test_a_header_that_cannot_be_read_was_not_sent(value: str) -> None:
    """Nonsense is no wait, and no error."""
    assert said_by(Failure(headers={"Retry-After": value})) is None


@pytest.mark.parametrize(
    "value",
    [
        True,
        -1,
        float("nan"),
        float("inf"),
        -float("inf"),
        timedelta(seconds=-1),
        object(),
        b"5",
        [5],
    ],
)
def test_an_attribute_that_cannot_be_read_says_nothing(value: object) -> None:
    """What is no wait is none."""
    assert said_by(Failure(retry_after=value)) is None


class Hostile(Exception):
    """An object that fails at whatever it is asked."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return super().__getattribute__(name)
        raise RuntimeError(name)


class Endless:
    """Headers without an end."""

    def items(self) -> Iterator[tuple[str, str]]:
        while True:
            yield "some", "thing"


class Broken:
    def items(self) -> Any:
        raise RuntimeError("closed")


class Undecided:
    """A value that is neither true nor false, such as a column of a table."""

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


def test_the_body_of_a_response_is_not_read() -> None:
    """A body that is still on its way is neither waited for nor taken from the caller."""
    response = requests.Response()
    response.raw = io.BytesIO(b"some body")
    assert said_by(requests.HTTPError("503", response=response)) is None
    assert response.content == b"some body"


@pytest.mark.parametrize("name", ["status", "status_code"])
def test_a_result_is_not_asked_for_its_truth(name: str) -> None:
    """A table with a column of that name is no response, and ends no job."""
    table = SimpleNamespace(**{name: Undecided()})
    assert advised(Returned(table), NOW) is None


@pytest.mark.parametrize(
    "error",
    [
        Hostile(),
        KeyError("order"),
        Failure(response=Hostile()),
        Failure(headers=Hostile(), response=Hostile(), trailing_metadata=Hostile()),
        Failure(headers=Endless()),
        Failure(headers=Broken(), response={"ResponseMetadata": Broken()}),
        Failure(headers={7: "7", b"retry-after": "7", "retry-after": Hostile()}),
        Failure(headers="Retry-After: 5", response="Retry-After: 5"),
        Failure(headers=[("retry-after",), 7, "retry-after"]),
        Failure(response={"ResponseMetadata": {"HTTPHeaders": None}}),
        Failure(response={"ResponseMetadata": None}),
        Failure(trailing_metadata=lambda needs: needs),
        httpx.ConnectError("refused"),
    ],
)
def test_foreign_objects_never_raise(error: BaseException) -> None:
    """An error that cannot be asked has said nothing, and the job goes its way."""
    assert said_by(error) is None
    assert advised(Returned(error), NOW) is None
