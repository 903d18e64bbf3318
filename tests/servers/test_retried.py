"""What is tried again, how often, for how long, and what is said of it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from shelflist.core.errors import StoreDenied, StoreTimeout, StoreUnavailable
from shelflist.stores import _connect


class Clock:
    """A clock that only `sleep` and `work` move on."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_connect, "time", clock)
    monkeypatch.setattr(_connect, "_last_warning", ("", 0.0))
    return clock


def failing(error: Exception, times: int, calls: list[int]) -> Callable[[], str]:
    def call() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "answer"

    return call


def test_twice_away_and_then_there(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []
    with caplog.at_level(logging.WARNING):
        assert _connect.retried(failing(StoreUnavailable("Store at X is away."), 2, calls), "get") == "answer"
    assert len(calls) == 3 and clock.slept == sorted(clock.slept) and len(clock.slept) == 2
    assert [record.getMessage() for record in caplog.records] == ["Store at X is away. Trying again for a while."]


def test_away_for_good_ends_after_some_ten_seconds(clock: Clock) -> None:
    calls: list[int] = []
    with pytest.raises(StoreUnavailable, match="away"):
        _connect.retried(failing(StoreUnavailable("away"), 99, calls), "get")
    assert len(calls) == 5 and sum(clock.slept) < 15


def test_time_outs_of_half_a_minute_are_not_tried_five_times(clock: Clock) -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        clock.now += 31.0
        raise StoreTimeout("late")

    with pytest.raises(StoreTimeout):
        _connect.retried(call, "get")
    assert len(calls) == 2 and clock.now < 1_000_000 + 70


@pytest.mark.parametrize("error", [StoreDenied("no"), ValueError("bad")])
def test_what_does_not_pass_by_itself_is_tried_once(clock: Clock, error: Exception) -> None:
    calls: list[int] = []
    with pytest.raises(type(error)):
        _connect.retried(failing(error, 99, calls), "get")
    assert len(calls) == 1 and not clock.slept


def test_one_outage_is_one_warning_however_many_calls_it_stops(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                _connect.retried(failing(StoreUnavailable("Store at X is away."), 99, []), "get")
        assert len(caplog.records) == 1
        clock.now += 1_000
        with pytest.raises(StoreUnavailable):
            _connect.retried(failing(StoreUnavailable("Store at X is away."), 99, []), "get")
    assert len(caplog.records) == 2


def test_one_call_warns_once_though_its_errors_are_worded_otherwise(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [StoreUnavailable("Store at X broke off."), StoreUnavailable("Store at X cannot be reached.")]

    def call() -> str:
        if errors:
            raise errors.pop(0)
        return "answer"

    with caplog.at_level(logging.WARNING):
        assert _connect.retried(call, "get") == "answer"
    assert [record.getMessage() for record in caplog.records] == ["Store at X broke off. Trying again for a while."]
