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


@dataclass(slots=True)
class Scene:
    """A server, a way to end, and the CLI's runs with them."""

    title: str
    answer: Answer | None = None  # the server's, to every request; without one, nobody listens
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
    def deliverable(self) -> int:
        """How many of them a server accepts."""
        return self.captured if self.answer and not self.answer.hang else 0

    @property
    def requests(self) -> Sequence[RecordedRequest]:
        """The requests so far."""
        return self.server.requests if self.server else ()

    @property
    def runs(self) -> list[list[RecordedRequest]]:
        """The accepted requests of each run, in order of arrival."""
        runs: dict[str, list[RecordedRequest]] = {}
        for request in self.requests:
            if request.accepted:
                runs.setdefault(request.events[0]["properties"].get("run_id"), []).append(request)
        return list(runs.values())

    @property
    def accepted(self) -> list[dict[str, Any]]:
        """The events that the server accepted."""
        return [event for run in self.runs for request in run for event in request.events]


def problems(scene: Scene, wall_off: list[float]) -> list[str]:
    """Return what went wrong in a scene; an empty list when nothing did."""
    found = list(scene.oddities)
    arrived = len({event.get("uuid") for event in scene.accepted})
    if arrived < len(scene.accepted):
        found.append("an event arrived more than once")
    if arrived != scene.deliverable:
        some = f"{arrived} of {scene.captured} events arrived"
        found.append(some if scene.deliverable else "events were accepted where nobody accepts any")
    elif any([event["event"] for request in run for event in request.events] != [*scene.events] for run in scene.runs):
        found.append("the events of a run are not those it captured, or not in that order")
    # The real cost is far below that, and every time limit above: a busy machine is no failure, waiting is.
    if not scene.argument and median(scene.wall) > 2 * median(wall_off) + 1.0:
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
