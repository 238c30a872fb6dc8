"""`sample_rate`: a share of the runs, each of them whole; and the words of a `Telemetry` about itself."""

from __future__ import annotations

import pytest

from atotelemetry.facts import run
from atotelemetry.host.telemetry import Telemetry
from atotelemetry.testing import captured
from support_home import ID, fresh_home, store

LOW, HIGH = "00000000-0000-4000-8000-000000000000", "ffffffff-0000-4000-8000-000000000000"


@pytest.fixture(autouse=True)
def yes(monkeypatch, tmp_path):
    store(fresh_home(monkeypatch, tmp_path), f"id: {ID}\ntelemetry: true\n")


def made(**options):
    return Telemetry(app="atopile", api_key="phc_test", host="http://127.0.0.1:9", **options)


@pytest.mark.parametrize(
    ("run_id", "rate", "measured"),
    [(LOW, 0.001, True), (LOW, 0, False), (HIGH, 0.999, False), (HIGH, 1, True), (HIGH, 1.0, True)],
)
def test_the_run_s_id_decides(monkeypatch, run_id, rate, measured):
    """A run is measured as a whole or not at all, and what it forks has the same id."""
    monkeypatch.setitem(run._run, "id", run_id)
    telemetry = made(sample_rate=rate)
    assert telemetry.disabled is not measured
    telemetry.disabled = False
    assert telemetry.disabled is not measured, "the host cannot draw lots again"


def test_the_rate_is_on_each_event(monkeypatch):
    """So a dashboard can count each event as one over the rate. A run that is certain says nothing."""
    monkeypatch.setitem(run._run, "id", LOW)
    for rate, expected in ((0.25, 0.25), (1.0, None)):
        telemetry = made(sample_rate=rate, properties={"edition": "free"})
        with captured(telemetry) as events:
            telemetry.capture_event("built")
        (event,) = events
        assert event["properties"].get("sample_rate") == expected
        assert event["properties"]["edition"] == "free"


@pytest.mark.parametrize("rate", [-0.1, 1.1, "half", True, float("nan")])
def test_a_rate_is_a_number_from_0_to_1(rate):
    """Anything else is a mistake in the host's code."""
    with pytest.raises(ValueError, match="sample_rate must be a number from 0 to 1"):
        made(sample_rate=rate)


def test_a_telemetry_says_what_it_does(monkeypatch):
    """In a shell, a log or a failing test; the key is not in it."""
    assert repr(made()) == "<Telemetry 'atopile': on, host 'http://127.0.0.1:9'>"
    monkeypatch.setenv("ATO_TELEMETRY", "off")
    text = repr(made())
    assert text.startswith("<Telemetry 'atopile': off (")
    assert "ATO_TELEMETRY" in text


def test_flush_shutdown_and_stats_are_here_too():
    """What the client can say and do about its events, its owner can."""
    telemetry = made()
    assert telemetry.flush()
    assert telemetry.stats.captured == 0
    telemetry.disabled = True
    assert telemetry.client.disabled
    assert telemetry.shutdown()
