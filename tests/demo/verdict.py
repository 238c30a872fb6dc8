"""Scenes, and the judgement on their runs. Pure: no process, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atotelemetry.testing import Answer, CaptureServer, RecordedRequest

EVENTS = ("cli:start", "build:start", "build:end", "cli:end")
"""The events of one run of the example CLI, in order."""

SLOWER_AT_MOST = 1.0
"""A scene is too slow above twice the time with telemetry off and these seconds. The real cost is far below, and every
time limit that a run could wait for is above: a busy machine is no failure, waiting is."""


@dataclass(slots=True, kw_only=True)
class Scene:
    """A server, a way to end, and the CLI's runs with them."""

    title: str
    answer: Answer | None = None  # the server's, to every request; without one, nobody listens
    delivers: bool = False  # whether the server accepts events
    argument: str = ""  # how the CLI is told to die; it then runs once, after all others
    events: tuple[str, ...] = EVENTS  # of each run; none where telemetry is off
    server: CaptureServer | None = None
    wall: list[float] = field(default_factory=list)  # the wall time of each run
    ended_at: float = 0.0  # `time.time()` at the end of the last run
    oddities: list[str] = field(default_factory=list)  # noticed on the way, such as another output

    @property
    def captured(self) -> int:
        """How many events the CLI captured in all runs."""
        return len(self.wall) * len(self.events)

    @property
    def requests(self) -> Sequence[RecordedRequest]:
        """The requests so far."""
        return self.server.requests if self.server else ()

    @property
    def accepted(self) -> list[dict[str, Any]]:
        """The events that the server accepted, in order of arrival."""
        return [event for request in self.requests if request.accepted for event in request.events]


def problems(scene: Scene, wall_off: list[float]) -> list[str]:
    """Return what went wrong in a scene; an empty list when nothing did."""
    found = list(scene.oddities)
    accepted = {event.get("uuid") for event in scene.accepted}
    if len(accepted) != len(scene.accepted):
        found.append("an event arrived more than once")
    by_run: dict[Any, list[Any]] = {}
    for event in scene.accepted:
        by_run.setdefault(run_of(event), []).append(event["event"])
    if accepted and not scene.delivers:
        found.append("events were accepted where nobody accepts any")
    elif scene.delivers and len(accepted) != scene.captured:
        found.append(f"{len(accepted)} of {scene.captured} events arrived")
    elif scene.delivers and sorted(by_run.values()) != [list(scene.events)] * len(scene.wall):
        found.append("the events of a run are not those it captured, or not in that order")
    if not scene.argument and median(scene.wall) > 2 * median(wall_off) + SLOWER_AT_MOST:
        found.append("telemetry made the CLI slower than it ever may")
    return found


def untried(scene: Scene) -> list[str]:
    """Return what a server was never asked to take, once its senders have ended."""
    tried = {event.get("uuid") for request in scene.requests for event in request.events}
    return [f"only {len(tried)} of {scene.captured} events came as far as the server"] * (len(tried) < scene.captured)


def sender_problems(expected: int, started: int, ended: int, alive: int) -> list[str]:
    """Return what went wrong with the senders: `started` and `ended` said so, `alive` still run."""
    checks = {
        f"{started} senders worked for {expected} runs": started != expected,
        f"{started - ended} senders did not come to their own end": started != ended,
        f"{alive} senders are still there": alive > 0,
    }
    return [problem for problem, is_one in checks.items() if is_one]


def run_of(event: dict[str, Any]) -> Any:
    """Return the id of the run that an event belongs to."""
    return event["properties"].get("run_id")
