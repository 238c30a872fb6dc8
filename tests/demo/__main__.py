"""`make demo`: a small CLI, the servers it may meet, and the fate of its events.

The example CLI and its senders are real processes; the servers run on threads of this one, on loopback. Everything has
its default: no time limit is shortened, so the demo ends with a wait for the senders of the server that hangs. The
children get a home directory of their own: the user's choice and id are neither read nor written.

Exits with 0 when everything was right, with 1 otherwise, and names each problem.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NoReturn

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from tests.demo.verdict import EVENTS, Result, problems, run_of, sender_problems, untried

from atotelemetry.testing import Answer, CaptureServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from atotelemetry.testing import RecordedRequest

ROUNDS = 9
HEALTHY_DELAY = 0.1
PATIENCE = 20.0  # for anything that takes a moment
SENDERS_GONE_WITHIN = 15.0 + 10.0  # their deadline, and a margin for a busy machine

EXAMPLE = str(Path(__file__).with_name("example.py"))
LOG_LINE = re.compile(r" sender\[(\d+)\] (.*)")


@dataclass(slots=True, kw_only=True)
class Scenario(Result):
    """One server, and the senders that talk to it.

    Each sender writes to `log`: what it tried, and at last a line that starts with `done:`. The log tells them from
    other processes, on every system. A sender that has said nothing yet is not known.
    """

    url: str
    log: Path
    server: CaptureServer | None = None

    def settle(self) -> None:
        """Wait for the effect of a run that has just ended, so that the next one has the machine to itself."""
        self.runs += 1
        self.ended_at = time.time()
        try:
            if self.server is None:
                self.wait_until_heard(self.runs)
            elif self.delivers:
                self.server.wait_for_events(self.runs * len(EVENTS), PATIENCE)
            else:
                self.server.wait_for_requests(self.runs, PATIENCE)
        except TimeoutError as error:
            self.oddities.append(f"after run {self.runs}: {error}")
        self.look()

    def look(self) -> None:
        """Note the requests that have arrived."""
        self.requests = self.server.requests if self.server else []

    def wait_until_heard(self, count: int) -> None:
        """Wait until `count` senders said something. Raises TimeoutError."""
        deadline = time.monotonic() + PATIENCE
        while len(self.started()) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing was heard of its sender within {PATIENCE:g} s")
            time.sleep(0.01)

    def started(self, word: str = "") -> set[int]:
        """Return the process ids of all senders that said `word` at the start of a line."""
        said = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        return {int(pid) for pid, text in LOG_LINE.findall(said) if text.startswith(word)}

    def ended(self) -> set[int]:
        """Return the process ids of those that came to their own end."""
        return self.started("done:")

    def alive(self) -> set[int]:
        """Return the process ids of those that still run."""
        return set(filter(is_running, self.started()))


def is_running(pid: int) -> bool:
    """Whether a process runs. Zombies do not: a container without an init process keeps them."""
    if sys.platform == "win32":
        return False  # signal 0 would end it; its last line has to do
    try:
        os.kill(pid, 0)
        return sys.platform != "linux" or Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False  # gone, or the number is somebody else's by now


class Demo:
    """The servers and the runs of the CLI. `cleanup` stops the servers, also when something goes wrong."""

    def __init__(self, directory: Path, cleanup: contextlib.ExitStack, status: Callable[[str], object]) -> None:
        self.directory = directory
        self.status = status
        self.wall_off: list[float] = []
        self.expected_output = ""
        for name in ("home", "home-off", "cache"):
            (directory / name).mkdir()

        def scenario(title: str, server: CaptureServer | None, url: str = "", *, delivers: bool = False) -> Scenario:
            if server is not None:
                url = cleanup.enter_context(server).url
                server.respond(Answer(delay=HEALTHY_DELAY) if delivers else Answer(hang=True))
            log = directory / f"{title.replace(' ', '-')}.log"
            return Scenario(title=title, delivers=delivers, url=url, log=log, server=server)

        bound = cleanup.enter_context(socket.socket())  # and never listened on
        bound.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{bound.getsockname()[1]}"
        self.healthy = scenario("healthy", CaptureServer(), delivers=True)
        self.hanging = scenario("hangs (never answers)", CaptureServer())
        self.down = scenario("down (nobody listens)", None, closed)
        self.killed = scenario("healthy, but CLI killed", CaptureServer(), delivers=True)
        self.scenarios = [self.healthy, self.hanging, self.down, self.killed]

    def measure(self) -> None:
        """Run the CLI with telemetry off and against each server in turn, `ROUNDS` times.

        Each round starts with another one, so a burst of load on the machine meets every row of the table.
        """
        self.run(None)  # compiles the CLI's modules, and says what it prints
        turns = [None, self.hanging, self.down, self.healthy]
        for number in range(ROUNDS):
            for scenario in turns[number % 4 :] + turns[: number % 4]:
                self.status(f"round {number + 1} of {ROUNDS}: {scenario.title if scenario else 'telemetry off'}")
                if scenario is None:
                    self.wall_off.append(self.run(None))
                else:
                    scenario.wall.append(self.run(scenario))
                    scenario.settle()
        for scenario in turns[1:]:
            scenario.wall_off = self.wall_off

    def run(self, scenario: Scenario | None) -> float:
        """Run the CLI; return its wall time, up to the end of its output as `$(cli)` in a shell waits for it."""
        started = time.perf_counter()
        with self.start(scenario) as process:
            output, errors = process.communicate()
        wall = time.perf_counter() - started
        self.expected_output = self.expected_output or output
        if (process.returncode, output, errors) != (0, self.expected_output, ""):
            said = f"a run of the CLI ended with {process.returncode} and printed {output + errors!r:.200}"
            (scenario or self.healthy).oddities.append(said)
        return wall

    def kill(self) -> None:
        """Run the CLI once more, and kill it the moment its last event is handed over."""
        self.status(self.killed.title)
        started = time.perf_counter()
        with self.start(self.killed, "--stay") as process:
            # It prints a last line, and then waits for an input that never comes.
            output = [process.stdout.readline(), process.stdout.readline()]
            process.kill()
        self.killed.wall.append(time.perf_counter() - started)
        if output != [self.expected_output, "handed over\n"]:
            self.killed.oddities.append("it did not come to the point where it is killed")
        self.killed.settle()

    @contextlib.contextmanager
    def start(self, scenario: Scenario | None, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Start the CLI, by default with telemetry off. It never outlives the block, nor `PATIENCE`."""
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, EXAMPLE, *arguments]
        environment = self.environment(scenario)
        with subprocess.Popen(command, text=True, cwd=self.directory, env=environment, **streams) as process:
            watchdog = threading.Timer(PATIENCE, process.kill)
            watchdog.start()
            try:
                yield process
            finally:
                watchdog.cancel()
                process.kill()

    def environment(self, scenario: Scenario | None) -> dict[str, str]:
        """Return this process's environment with homes of the demo's own, and nothing that decides on telemetry."""
        decides = ("ATO_", "EXAMPLE_", "DO_NOT_TRACK")
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(decides)}
        kept = {name: value for name, value in kept.items() if not name.upper().endswith("_PROXY")}
        home = str(self.directory / ("home" if scenario else "home-off"))
        kept.update(dict.fromkeys(("HOME", "USERPROFILE", "XDG_CONFIG_HOME", "LOCALAPPDATA", "APPDATA"), home))
        # Senders note there that a network failed, and the next run heeds it: here every run is the first.
        kept["XDG_CACHE_HOME"] = tempfile.mkdtemp(dir=self.directory / "cache")
        kept["ATO_TELEMETRY_LOG"] = str(scenario.log if scenario else self.directory / "off.log")
        if scenario is None:
            return {**kept, "DO_NOT_TRACK": "1"}
        # Asked for in so many words: in CI it would be off.
        return {**kept, "EXAMPLE_TELEMETRY": "on", "EXAMPLE_SERVICES_TELEMETRY_URL": scenario.url}

    def wait_for_senders(self) -> float:
        """Wait until the last sender has ended, or should have; return the seconds since the last hanging run."""
        deadline = time.monotonic() + SENDERS_GONE_WITHIN
        while True:
            waited = time.time() - self.hanging.ended_at
            counts = self.senders()
            if time.monotonic() > deadline or (counts["ended"] >= counts["expected"] and not counts["alive"]):
                return waited
            self.status(f"waiting for the senders of the hanging server to give up, {waited:.0f} s")
            time.sleep(0.1)

    def senders(self) -> dict[str, int]:
        """Return how many senders there should be, and how many of them started, ended and still run."""
        everyone = self.scenarios
        return {
            "expected": sum(scenario.runs for scenario in everyone),
            "started": sum(len(scenario.started()) for scenario in everyone),
            "ended": sum(len(scenario.ended()) for scenario in everyone),
            "alive": sum(len(scenario.alive()) for scenario in everyone),
        }

    def problems(self) -> list[str]:
        """Return every problem of the whole demo, with the name of its scenario."""
        for scenario in self.scenarios:
            scenario.look()  # again: nothing may have come twice
        found = [f"{scenario.title}: {problem}" for scenario in self.scenarios for problem in problems(scenario)]
        found += untried(self.hanging)
        found += sender_problems(**self.senders())
        if (self.directory / "off.log").exists() or any((self.directory / "home-off").iterdir()):
            found.append("telemetry that was off left something behind")
        return found


# ---- the report


def show_table(console: Console, results: list[Result]) -> None:
    """Print a row for each server: wall time, the cost of telemetry, and how many events arrived."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("server")
    for name in ("wall time", "gained by telemetry", "delivered / captured"):
        table.add_column(name, justify="right")
    table.add_row("none (telemetry off)", spread(results[0].wall_off), "", "")
    for result in results:
        gained = [on - off for on, off in zip(result.wall, result.wall_off, strict=False)]
        delivered = f"{len(result.events)} / {result.captured}  "
        verdict = ("not ok", "bold red") if problems(result) else ("ok", "green")
        cost = spread(gained, "+") if gained else "-"
        table.add_row(result.title, spread(result.wall), cost, Text.assemble(delivered, verdict))
    console.print(table)


def spread(seconds: Sequence[float], sign: str = "") -> str:
    """Return the median, and in parentheses the least and the most, in milliseconds."""
    middle, *ends = (f"{value * 1000:{sign}.0f}" for value in (median(seconds), min(seconds), max(seconds)))
    return f"{middle} ms" + (f" ({' to '.join(ends)})" if len(seconds) > 1 else "")


def show_events(console: Console, shown: dict[str, Result]) -> None:
    """Print the events of the last run of each result; properties that all share come once, at the end."""
    requests: dict[str, list[RecordedRequest]] = {}
    for title, result in shown.items():
        last_run = run_of(result.events[-1]) if result.events else None
        requests[title] = [r for r in result.requests if r.accepted and any(run_of(e) == last_run for e in r.events)]
    everywhere = common(event for accepted in requests.values() for request in accepted for event in request.events)
    for title, accepted in requests.items():
        console.print(f"\nWhat arrived of the {title}", style="bold")
        of_run = common(event for request in accepted for event in request.events)
        for request in accepted:
            after = (request.received_at - shown[title].ended_at) * 1000
            when = f"{abs(after):.0f} ms {'after' if after >= 0 else 'before'} the end of the CLI"
            console.print(f"  {request.method} {request.path} with {len(request.events)} events, {when}", style="dim")
            for event in request.events:
                name = event["event"].ljust(max(map(len, EVENTS)))
                console.print(Text.assemble("    ", (name, "cyan"), "  ", (str(event.get("timestamp")), "dim")))
                for key, value in event["properties"].items():
                    if key not in of_run:
                        console.print(f"      {key}: {as_json(value)}")
        show_properties(console, "of this run:", {key: of_run[key] for key in of_run if key not in everywhere})
    console.print()
    show_properties(console, "all events:", everywhere)


def show_properties(console: Console, title: str, properties: dict[str, Any]) -> None:
    """Print properties, as many to a line as fit."""
    if properties:
        words = " ".join([title, *(f"{key}={as_json(value)}" for key, value in properties.items())])
        console.print(Padding(Text(words, "dim"), (0, 0, 0, 4)))


def common(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the properties that all these events share, their `distinct_id` first."""
    first, *others = [{"distinct_id": event.get("distinct_id"), **event["properties"]} for event in events] or [{}]
    return {key: value for key, value in first.items() if all(other.get(key, other) == value for other in others)}


def as_json(value: Any) -> str:
    """Return a value as JSON; a float with the microseconds that a clock knows."""
    return json.dumps(round(value, 6) if isinstance(value, float) else value, ensure_ascii=False)


def show_verdict(console: Console, found: list[str], senders: int, gave_up_after: float) -> None:
    """Print each problem, or what was right."""
    last = f"those of the hanging server {gave_up_after:.0f} s after their CLI"
    lines = found or [
        "every event arrived exactly once where a server took it, also those of the killed CLI",
        "the CLI printed the same in every run, and no run waited for a server",
        "telemetry that was off started nothing and left nothing behind",
        f"no process left: all {senders} senders have ended, {last}",
    ]
    console.print("\nNot as it should be:" if found else "", style="bold red")
    good, bad = ("+", "x") if console.options.ascii_only else ("✓", "✗")
    marked = Table.grid(padding=(0, 1))
    for line in lines:
        marked.add_row("", Text(bad, "bold red") if found else Text(good, "green"), line)
    console.print(marked)
    console.print("\nHow to go on: README shows how to use this in your CLI; `atotelemetry serve` prints its events.")


def main() -> int:
    """Run the demo; return the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end_by_signal)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a property may hold what the terminal cannot show
    console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 100)
    console.print("atotelemetry demo", style="bold")
    console.print(
        f"\nA small CLI captures {len(EVENTS)} events a run. Its server is healthy (it answers after "
        f"{HEALTHY_DELAY * 1000:.0f} ms), or hangs, or is down. Wall times are medians of {ROUNDS} rounds; each round "
        "runs the CLI with telemetry off and against every server, in turn. Single runs on a busy machine differ by "
        "more than telemetry costs: compare the medians, and look at the spread.\n\n"
        "At last the CLI is killed (SIGKILL) after its last event was handed over. Handed over means: the event is in "
        "the pipe to the sender, some milliseconds after its capture. From then on the CLI's death cannot lose it.\n"
    )
    with contextlib.ExitStack() as cleanup:
        directory = Path(tempfile.mkdtemp(prefix="atotelemetry-demo-"))
        cleanup.callback(remove, directory)
        status = cleanup.enter_context(console.status("first run", refresh_per_second=2))
        demo = Demo(directory, cleanup, status.update)
        demo.measure()
        demo.kill()
        show_table(console, demo.scenarios)
        last = {"last run with the healthy server": demo.healthy, "run that was killed": demo.killed}
        show_events(console, last)
        gave_up_after = demo.wait_for_senders()
        found = demo.problems()
        status.stop()
        show_verdict(console, found, demo.senders()["ended"], gave_up_after)
    return 1 if found else 0


def remove(directory: Path) -> None:
    """Remove the children's directory; again when a sender that has just started put its log there meanwhile."""
    for _ in range(100):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(0.02)


def end_by_signal(number: int, _: object) -> NoReturn:
    """End as a shell reports it: neither the CLIs nor the files of a demo outlive it."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
