"""What a demo saw of each server, and whether it was right. Pure: no process, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atotelemetry.testing import RecordedRequest

EVENTS = ("cli:start", "build:start", "build:end", "cli:end")
"""The events of one run of the example CLI, in order."""

SLOWER_AT_MOST = 1.0
"""A run is too slow above twice the wall time with telemetry off and these seconds. That is far above the real cost,
and below every time limit that a run could have waited for: a busy machine is no failure, waiting is."""


@dataclass(slots=True, kw_only=True)
class Result:
    """What was seen of the runs against one server."""

    title: str
    delivers: bool
    """Whether events can arrive at all: not when the server hangs or is down."""
    runs: int = 0
    requests: list[RecordedRequest] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    wall_off: list[float] = field(default_factory=list)
    """The runs with telemetry off, one for each in `wall`; empty for a CLI that is killed."""
    oddities: list[str] = field(default_factory=list)
    """Problems noticed on the way, such as a CLI that printed something else."""
    ended_at: float = 0.0
    """`time.time()` at the end of the last run."""

    @property
    def captured(self) -> int:
        """How many events the CLI captured in all runs."""
        return self.runs * len(EVENTS)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events that the server accepted, in order of arrival."""
        return [event for request in self.requests if request.accepted for event in request.events]


def problems(result: Result) -> list[str]:
    """Return what went wrong with one server; an empty list when nothing did."""
    found = list(result.oddities)
    uuids = [event.get("uuid") for event in result.events]
    if len(set(uuids)) != len(uuids):
        found.append("an event arrived more than once")
    if result.delivers:
        by_run: dict[Any, list[Any]] = {}
        for event in result.events:
            by_run.setdefault(run_of(event), []).append(event["event"])
        if len(set(uuids)) != result.captured:
            found.append(f"{len(set(uuids))} of {result.captured} events arrived")
        elif len(by_run) != result.runs or any(tuple(names) != EVENTS for names in by_run.values()):
            found.append("the events of a run are not those it captured, or not in that order")
    elif uuids:
        found.append("events were accepted where nobody accepts any")
    if result.wall_off and median(result.wall) > 2 * median(result.wall_off) + SLOWER_AT_MOST:
        found.append("telemetry made the CLI slower than it ever may")
    return found


def untried(result: Result) -> list[str]:
    """Return what a server that hangs was never asked to take, once its senders have ended."""
    tried = {event.get("uuid") for request in result.requests for event in request.events}
    if result.requests and len(tried) != result.captured:
        return [f"only {len(tried)} of {result.captured} events came as far as the server"]
    return []


def sender_problems(*, expected: int, started: int, ended: int, alive: int) -> list[str]:
    """Return what went wrong with the senders: `started` and `ended` said so, `alive` still run."""
    found = []
    if started != expected:
        found.append(f"{started} senders worked for {expected} runs")
    if ended != started:
        found.append(f"{started - ended} senders did not come to their own end")
    if alive:
        found.append(f"{alive} senders are still there")
    return found


def run_of(event: dict[str, Any]) -> Any:
    """Return the id of the run that an event belongs to."""
    return event["properties"].get("run_id")
