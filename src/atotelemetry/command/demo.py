"""`atotelemetry demo`: a small CLI, the worlds it may meet, and what became of its events.

Runs in its own process, in the foreground. The example CLI and its senders are real processes; the servers run on
threads of this one, on loopback. Everything is as a user of the library has it by default: no time limit is made
shorter for the occasion, which is why the demo ends with a wait for the senders that talk to a server that hangs.

First it runs everything and notes what it sees, then it judges what it saw (`problems`, `sender_problems`: pure), and
whatever is not as it should be is named and makes the exit code 1. The children get a home directory of their own, so
the user's choice and id are neither read nor written.
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
import textwrap
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from atotelemetry.testing import CaptureServer, RecordedRequest

__all__ = ["EVENTS", "Result", "add_arguments", "problems", "run", "sender_problems"]

EVENTS = ("cli:start", "build:start", "build:end", "cli:end")
"""What one run of the example CLI captures, in order."""

RUNS = 5
HEALTHY_DELAY = 0.1

SLOWER_AT_MOST = 1.0
"""By twice the wall time with telemetry off and so many seconds the demo calls a run too slow. That is far more than
the cost, and less than any time limit that a run could have waited for: a busy machine is no failure, waiting is."""

# A sender's deadline, and a margin: on a busy machine it starts late.
_SENDERS_GONE_WITHIN = 15.0 + 10.0
_PATIENCE = 10.0  # for anything that takes a moment
_GIVE_UP_ON_CLI = 20.0

_FAKE_KEY = "phc_demo"
_CLI = ("-m", "atotelemetry.command.example")
_LOG_LINE = re.compile(r"sender\[(\d+)\] (.*)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `demo`, which has none, on its parser."""
    parser.description = (
        "Run a small CLI against a server that is healthy, one that hangs and one that is down, kill it once, and "
        "print what that cost the CLI and which events arrived. Takes about 15 seconds, stays on this machine, and "
        "leaves your own settings alone."
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; return 0 when everything was as it should be, and 1 otherwise."""
    del args
    screen = _Screen(sys.stdout)
    # The CLIs and the temporary files of a demo that is told to end should not outlive it.
    previous = signal.signal(signal.SIGTERM, _end_by_signal)
    try:
        with contextlib.ExitStack() as cleanup:
            directory = tempfile.mkdtemp(prefix="atotelemetry-demo-")
            cleanup.callback(_remove, directory)
            return _Demo(screen, directory, cleanup).run()
    finally:
        screen.progress("")
        signal.signal(signal.SIGTERM, previous)


def _remove(directory: str) -> None:
    """Remove the children's directory; again, when a sender that has just started put its log there meanwhile."""
    for _ in range(100):
        shutil.rmtree(directory, ignore_errors=True)
        if not os.path.exists(directory):
            return
        time.sleep(0.02)


# ---- what was seen, and whether it was right


@dataclass(slots=True, kw_only=True)
class Result:
    """What was seen of one scenario."""

    title: str
    runs: int
    delivers: bool
    """Whether the events can arrive at all: not when the server hangs or is down."""
    requests: list[RecordedRequest] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    wall_off: list[float] = field(default_factory=list)
    """Empty when there is nothing to compare with: a CLI that is killed."""
    oddities: list[str] = field(default_factory=list)
    """What was noticed on the way, such as a CLI that printed something else."""
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
    """Return what was not as it should be in one scenario; an empty list when everything was."""
    found = list(result.oddities)
    uuids = [event.get("uuid") for event in result.events]
    if len(set(uuids)) != len(uuids):
        found.append("an event arrived more than once")
    if result.delivers:
        by_run: dict[Any, list[Any]] = {}
        for event in result.events:
            by_run.setdefault(_run_of(event), []).append(event["event"])
        if len(set(uuids)) != result.captured:
            found.append(f"{len(set(uuids))} of {result.captured} events arrived")
        elif len(by_run) != result.runs or any(tuple(names) != EVENTS for names in by_run.values()):
            found.append("what arrived of a run is not what it captured, or not in that order")
    else:
        if uuids:
            found.append("events were accepted where nobody accepts any")
        tried = {event.get("uuid") for request in result.requests for event in request.events}
        if result.requests and len(tried) != result.captured:
            found.append(f"only {len(tried)} of {result.captured} events came as far as the server")
    if result.wall_off and _median(result.wall) > 2 * _median(result.wall_off) + SLOWER_AT_MOST:
        found.append("telemetry made the CLI slower than it ever may")
    return found


def sender_problems(*, expected: int, started: int, ended: int, alive: int) -> list[str]:
    """Return what was not as it should be with the senders: of `started`, `ended` said so and `alive` are there."""
    found = []
    if started != expected:
        found.append(f"{started} senders worked for {expected} runs")
    if ended != started:
        found.append(f"{started - ended} senders did not come to their own end")
    if alive:
        found.append(f"{alive} senders are still there")
    return found


def _run_of(event: dict[str, Any]) -> Any:
    return event["properties"].get("run_id")


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


# ---- the work


@dataclass(slots=True, kw_only=True)
class _Scenario:
    """One server, the senders that talk to it, and how to wait for what the n-th run sets off.

    `settle(n)` may raise TimeoutError.
    """

    result: Result
    url: str
    senders: _Senders
    settle: Callable[[int], object]
    server: CaptureServer | None = None

    def look(self) -> None:
        """Note what has arrived until now."""
        if self.server is not None:
            self.result.requests = self.server.requests


class _Demo:
    """The servers, the runs and the report; `cleanup` stops the servers, also when something goes wrong."""

    def __init__(self, screen: _Screen, directory: str, cleanup: contextlib.ExitStack) -> None:
        self._screen = screen
        self._directory = directory
        self._cleanup = cleanup
        home = os.path.join(directory, "home")
        self._home_off = os.path.join(directory, "home-off")
        self._log_off = os.path.join(directory, "off.log")
        for path in (home, self._home_off):
            os.mkdir(path)
        self._environment = _environment(home)
        self._environment_off = {
            **_environment(self._home_off),
            "ATO_TELEMETRY_LOG": self._log_off,
            "DO_NOT_TRACK": "1",
        }
        self._expected_output = ""

    def run(self) -> int:
        """Run every scenario and report; return the exit code."""
        screen = self._screen
        screen.line(screen.bold("atotelemetry demo"))
        screen.line()
        screen.paragraph(
            f"A small CLI captures {len(EVENTS)} events a run. Its server is healthy (it answers after "
            f"{HEALTHY_DELAY * 1000:.0f} ms), or hangs, or is down; and once the CLI is killed right after its last "
            f"event. Wall times are medians of {RUNS} runs, taken in turn with runs that have telemetry off."
        )
        screen.line()
        # The first run compiles the CLI's modules, and tells what it prints when nothing is measured.
        screen.progress("first run ...")
        _, code, self._expected_output, errors = self._run_cli(self._environment_off)
        if code or errors:
            screen.progress("")
            screen.line(screen.bad(f"The example CLI does not work here: it ended with {code}.\n{errors}"))
            return 1
        # The hanging server first: its senders are the last to give up, and may do so while others are measured.
        hanging, down, healthy = self._hanging(), self._down(), self._healthy()
        self._measure([hanging, down, healthy])
        killed = self._killed()
        scenarios = [healthy, hanging, down, killed]
        results = [scenario.result for scenario in scenarios]
        for scenario in scenarios:
            scenario.look()
        self._show_table(results)
        self._show_events(healthy.result, killed.result)

        expected = sum(result.runs for result in results)
        self._wait_for_senders(scenarios, expected, hanging.result.ended_at)
        gave_up_after = time.time() - hanging.result.ended_at
        for scenario in scenarios:
            scenario.look()  # again: nothing may have come twice
        found = [f"{result.title}: {problem}" for result in results for problem in problems(result)]
        found += sender_problems(
            expected=expected,
            started=sum(len(scenario.senders.started()) for scenario in scenarios),
            ended=sum(len(scenario.senders.ended()) for scenario in scenarios),
            alive=sum(len(scenario.senders.alive()) for scenario in scenarios),
        )
        if os.path.exists(self._log_off) or os.listdir(self._home_off):
            found.append("telemetry that was off left something behind")
        self._show_verdict(found, expected, gave_up_after)
        return 1 if found else 0

    # -- the scenarios

    def _healthy(self) -> _Scenario:
        server = self._server(delay=HEALTHY_DELAY)
        return _Scenario(
            result=Result(title="healthy", runs=RUNS, delivers=True),
            url=server.url,
            senders=self._new_senders("healthy"),
            settle=lambda runs: server.wait_for_events(runs * len(EVENTS), _PATIENCE),
            server=server,
        )

    def _hanging(self) -> _Scenario:
        server = self._server(hang=True)
        return _Scenario(
            result=Result(title="hangs (never answers)", runs=RUNS, delivers=False),
            url=server.url,
            senders=self._new_senders("hanging"),
            settle=lambda runs: server.wait_for_requests(runs, _PATIENCE),
            server=server,
        )

    def _down(self) -> _Scenario:
        with socket.socket() as listener:
            # Bound and closed again: a port that nobody listens on.
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        senders = self._new_senders("down")
        return _Scenario(
            result=Result(title="down (nobody listens)", runs=RUNS, delivers=False),
            url=f"http://127.0.0.1:{port}",
            senders=senders,
            settle=senders.wait_until_heard,
        )

    def _killed(self) -> _Scenario:
        server = self._server(delay=HEALTHY_DELAY)
        result = Result(title="healthy, but CLI killed", runs=1, delivers=True)
        scenario = _Scenario(
            result=result,
            url=server.url,
            senders=self._new_senders("killed"),
            settle=lambda runs: server.wait_for_events(runs * len(EVENTS), _PATIENCE),
            server=server,
        )
        self._screen.progress(f"{result.title} ...")
        started = time.perf_counter()
        with self._start(self._environment_of(scenario), "--stay") as process:
            # It says so on its last line, and then waits for an input that never comes.
            watchdog = threading.Timer(_GIVE_UP_ON_CLI, process.kill)
            watchdog.start()
            output = [process.stdout.readline(), process.stdout.readline()] if process.stdout is not None else []
            process.kill()
            process.wait()
            watchdog.cancel()
            result.wall.append(time.perf_counter() - started)
            result.ended_at = time.time()
        if output != [self._expected_output, "handed over\n"]:
            result.oddities.append("it did not come to the point where it is killed")
        with contextlib.suppress(TimeoutError):  # the table counts
            scenario.settle(1)
        return scenario

    def _server(self, **answer: Any) -> CaptureServer:
        # Costs the `http` package, which `demo --help` does without.
        from atotelemetry.testing import Answer, CaptureServer

        server = self._cleanup.enter_context(CaptureServer())
        server.respond(Answer(**answer))
        return server

    def _new_senders(self, name: str) -> _Senders:
        return _Senders(os.path.join(self._directory, f"{name}.log"))

    # -- the CLI

    def _measure(self, scenarios: list[_Scenario]) -> None:
        """Run the CLI in every scenario, each time after one with telemetry off, and all of it `RUNS` times.

        In turn, so that whatever else the machine does in these seconds is in every column of the table.
        """
        for number in range(1, RUNS + 1):
            for scenario in scenarios:
                result = scenario.result
                if result.oddities:
                    continue  # it would only take long, too
                self._screen.progress(f"run {number} of {RUNS}: {result.title} ...")
                self._measure_one(self._environment_off, result, result.wall_off)
                self._measure_one(self._environment_of(scenario), result, result.wall)
                result.ended_at = time.time()
                try:
                    # The next run should have the machine to itself, as far as this one's sender is concerned.
                    scenario.settle(number)
                except TimeoutError as error:
                    result.oddities.append(f"after run {number}: {error}")

    def _measure_one(self, environment: dict[str, str], result: Result, walls: list[float]) -> None:
        wall, code, output, errors = self._run_cli(environment)
        walls.append(wall)
        if (code, output, errors) != (0, self._expected_output, ""):
            result.oddities.append(f"a run of the CLI ended with {code} and printed {output + errors!r:.200}")

    def _run_cli(self, environment: dict[str, str]) -> tuple[float, int, str, str]:
        """Run the CLI; return its wall time, from before its start to its end, exit code, stdout and stderr."""
        started = time.perf_counter()
        with self._start(environment) as process:
            try:
                # Waits for the end of its output as well, as `$(cli)` in a shell does.
                output, errors = process.communicate(timeout=_GIVE_UP_ON_CLI)
            except subprocess.TimeoutExpired:
                process.kill()
                output, errors = process.communicate()
            return time.perf_counter() - started, process.returncode, output, errors

    @contextlib.contextmanager
    def _start(self, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            [sys.executable, *_CLI, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self._directory,
            env=environment,
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def _environment_of(self, scenario: _Scenario) -> dict[str, str]:
        return {
            **self._environment,
            "ATO_TELEMETRY_LOG": scenario.senders.log,
            "EXAMPLE_SERVICES_TELEMETRY_URL": scenario.url,
        }

    def _wait_for_senders(self, scenarios: list[_Scenario], expected: int, hung_since: float) -> None:
        """Wait until the last sender has ended, or should have."""
        deadline = time.monotonic() + _SENDERS_GONE_WITHIN
        while time.monotonic() < deadline:
            ended = sum(len(scenario.senders.ended()) for scenario in scenarios)
            if ended >= expected and not any(scenario.senders.alive() for scenario in scenarios):
                break
            seconds = time.time() - hung_since
            self._screen.progress(f"waiting for the senders of the hanging server to give up, {seconds:.0f} s ...")
            time.sleep(0.1)
        self._screen.progress("")

    # -- the report

    def _show_table(self, results: list[Result]) -> None:
        screen = self._screen
        screen.progress("")
        rows = [("server", "on", "off", "gained", "delivered / captured")]
        for result in results:
            on = _median(result.wall)
            off = _median(result.wall_off) if result.wall_off else None
            rows.append(
                (
                    result.title,
                    _milliseconds(on),
                    "-" if off is None else _milliseconds(off),
                    "-" if off is None else _milliseconds(on - off, "+"),
                    f"{len(result.events)} / {result.captured}",
                )
            )
        verdicts = ["", *(screen.bad("not ok") if problems(result) else screen.good("ok") for result in results)]
        first, *others = [max(len(row[column]) for row in rows) for column in range(5)]
        times = sum(others[:3]) + 2 * 3
        screen.line(screen.bold("  " + " " * first + "  " + "wall time, telemetry".rjust(times)))
        for row, verdict in zip(rows, verdicts, strict=True):
            cells = [row[0].ljust(first), *(cell.rjust(width + 1) for cell, width in zip(row[1:], others, strict=True))]
            line = "  " + "  ".join(cells)
            screen.line(f"{line}  {verdict}" if verdict else screen.bold(line))
            if not verdict:
                screen.line("  " + screen.rule * (len(line) + 2))

    def _show_events(self, healthy: Result, killed: Result) -> None:
        """Print the events of one ordinary run and of the killed one; what all of them say alike comes once."""
        shown = []
        for title, result in (
            ("What arrived of the last run with the healthy server", healthy),
            ("What arrived of the run that was killed", killed),
        ):
            last_run = _run_of(result.events[-1]) if result.events else None
            requests = [r for r in result.requests if r.accepted and any(_run_of(e) == last_run for e in r.events)]
            shown.append((title, result, requests))
        common = _common([event for _, _, requests in shown for request in requests for event in request.events])
        screen = self._screen
        for title, result, requests in shown:
            screen.line()
            screen.line(screen.bold(title))
            of_run = _common([event for request in requests for event in request.events])
            for request in requests:
                after = request.received_at - result.ended_at
                screen.line(
                    screen.dim(
                        f"  {request.method} {request.path} with {len(request.events)} events, "
                        f"{abs(after) * 1000:.0f} ms {'after' if after >= 0 else 'before'} the end of the CLI"
                    )
                )
                for event in request.events:
                    self._show_event(event, of_run)
            screen.properties({name: value for name, value in of_run.items() if name not in common}, "of this run: ")
        if common:
            screen.line()
            screen.properties(common, "all events: ")

    def _show_event(self, event: dict[str, Any], common: dict[str, Any]) -> None:
        screen = self._screen
        name = event["event"].ljust(max(map(len, EVENTS)))
        screen.line(f"    {screen.name(name)}  {screen.dim(str(event.get('timestamp')))}")
        for key, value in event["properties"].items():
            if key not in common:
                screen.line(f"      {key}: {_json(value)}")

    def _show_verdict(self, found: list[str], senders: int, gave_up_after: float) -> None:
        screen = self._screen
        screen.line()
        if found:
            screen.line(screen.bad("Not as it should be:"))
            for problem in found:
                screen.item(screen.cross, screen.bad, problem)
        else:
            last = f"those of the hanging server {gave_up_after:.0f} s after their CLI"
            for text in (
                "every event arrived exactly once where a server took it, also those of the killed CLI",
                "the CLI printed the same in every run, and no run waited for a server",
                "telemetry that was off started nothing and left nothing behind",
                f"no process left: all {senders} senders have ended, {last}",
            ):
                screen.item(screen.tick, screen.good, text)
        screen.line()
        screen.paragraph(
            "How to go on: the README shows how to use this in your CLI, and `atotelemetry serve` what your CLI sends."
        )


class _Senders:
    """The senders that write into one log: each says what it tried, and `done:` as its last word.

    The log is what tells them from anybody else's processes, on every system. One that has said nothing yet (it waits
    for a server) is not known, so who waits for the end of all has to know their number.
    """

    def __init__(self, log: str) -> None:
        self.log = log

    def started(self) -> set[int]:
        """Return the process ids of all that said anything."""
        return {pid for pid, _ in self._lines()}

    def ended(self) -> set[int]:
        """Return the process ids of those that came to their own end."""
        return {pid for pid, text in self._lines() if text.startswith("done:")}

    def alive(self) -> set[int]:
        """Return the process ids of those that are still running."""
        return {pid for pid in self.started() if _is_running(pid)}

    def wait_until_heard(self, count: int) -> None:
        """Wait until `count` of them said something. Raises TimeoutError."""
        deadline = time.monotonic() + _PATIENCE
        while len(self.started()) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing was heard of its sender within {_PATIENCE:g} s")
            time.sleep(0.01)

    def _lines(self) -> list[tuple[int, str]]:
        try:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                matches = [_LOG_LINE.search(line) for line in file]
        except FileNotFoundError:
            return []
        return [(int(match[1]), match[2]) for match in matches if match is not None]


def _is_running(pid: int) -> bool:
    if sys.platform == "win32":
        return _is_running_windows(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False  # the number is somebody else's by now
    try:
        # Its parent, the CLI, is gone: a container without an init process leaves it a zombie.
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return sys.platform != "linux"


def _is_running_windows(pid: int) -> bool:
    import ctypes

    synchronize, wait_timeout = 0x00100000, 0x102  # winnt.h, winerror.h
    kernel32 = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
    handle = kernel32.OpenProcess(synchronize, False, pid)
    if not handle:
        return False
    try:
        return bool(kernel32.WaitForSingleObject(handle, 0) == wait_timeout)
    finally:
        kernel32.CloseHandle(handle)


def _environment(home: str) -> dict[str, str]:
    """Return an environment for the CLI: this one's, with a home of its own and nothing that decides on telemetry."""
    import site

    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("ATO_", "EXAMPLE_", "DO_NOT_TRACK")) and not name.upper().endswith("_PROXY")
    }
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    search = [package, *filter(None, [environment.get("PYTHONPATH")])]
    environment.update(
        dict.fromkeys(("HOME", "USERPROFILE", "XDG_CONFIG_HOME", "LOCALAPPDATA", "APPDATA"), home),
        # Where the packages are must not change with the home directory.
        PYTHONUSERBASE=site.getuserbase(),
        PYTHONPATH=os.pathsep.join(search),
        EXAMPLE_TELEMETRY_API_KEY=_FAKE_KEY,
        NO_PROXY="127.0.0.1",
    )
    return environment


def _end_by_signal(number: int, frame: object) -> NoReturn:
    del frame
    raise SystemExit(128 + number)


# ---- words and colours


def _common(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what all these events say alike, their `distinct_id` first."""
    if not events:
        return {}
    first, *others = [{"distinct_id": event.get("distinct_id"), **event["properties"]} for event in events]
    return {
        name: value for name, value in first.items() if all(name in other and other[name] == value for other in others)
    }


def _json(value: Any) -> str:
    # Microseconds are all that a clock knows; the float has ten digits more.
    return json.dumps(round(value, 6) if isinstance(value, float) else value, ensure_ascii=False)


def _milliseconds(seconds: float, sign: str = "") -> str:
    return f"{seconds * 1000:{sign}.0f} ms"


class _Screen:
    """Prints lines, with colour and a line of progress on a terminal, and with letters that its encoding has."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._on_terminal = output.isatty()
        self._colour = self._on_terminal and _can_colour()
        self._width = min(shutil.get_terminal_size((90, 24)).columns, 100) if self._on_terminal else 90
        self._progress_length = 0
        fancy = _can_encode("─✓✗", output.encoding)
        self.rule, self.tick, self.cross = ("─", "✓", "✗") if fancy else ("-", "+", "x")
        if hasattr(output, "reconfigure"):
            # Properties may hold what this terminal's encoding has no character for.
            output.reconfigure(errors="backslashreplace")

    def line(self, text: str = "") -> None:
        """Print one line at once."""
        self._output.write(text + "\n")
        self._output.flush()

    def paragraph(self, text: str) -> None:
        """Print text in lines of the screen's width."""
        for line in textwrap.wrap(text, self._width - 1):
            self.line(line)

    def item(self, mark: str, style: Callable[[str], str], text: str) -> None:
        """Print text of any length behind a mark."""
        for number, line in enumerate(textwrap.wrap(text, self._width - 5) or [""]):
            self.line(f"  {' ' if number else style(mark)} {line}")

    def properties(self, properties: dict[str, Any], title: str) -> None:
        """Print what is less important, as many to a line as fit."""
        line = f"    {title}"
        for name, value in properties.items():
            said = f"{name}={_json(value)}"
            if len(line) + len(said) >= self._width and line.strip():
                self.line(self.dim(line.rstrip()))
                line = " " * 6
            line += said + "  "
        if properties:
            self.line(self.dim(line.rstrip()))

    def progress(self, text: str) -> None:
        """Show what is going on in a line that the next one replaces; an empty text removes it."""
        if self._on_terminal and (text or self._progress_length):
            shown = text[: self._width - 1]
            self._output.write("\r" + shown.ljust(self._progress_length) + ("" if shown else "\r"))
            self._output.flush()
            self._progress_length = len(shown)

    def bold(self, text: str) -> str:
        """Return `text` for a heading."""
        return self._styled("1", text)

    def dim(self, text: str) -> str:
        """Return `text` for what is less important."""
        return self._styled("2", text)

    def name(self, text: str) -> str:
        """Return `text` for the name of an event."""
        return self._styled("36", text)

    def good(self, text: str) -> str:
        """Return `text` for what is as it should be."""
        return self._styled("32", text)

    def bad(self, text: str) -> str:
        """Return `text` for what is not."""
        return self._styled("1;31", text)

    def _styled(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._colour else text


def _can_encode(text: str, encoding: str | None) -> bool:
    try:
        text.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _can_colour() -> bool:
    """Whether the terminal obeys colours and the user wants them (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return sys.platform != "win32" or _windows_console_obeys_colour()


def _windows_console_obeys_colour() -> bool:
    """Ask the console to obey escape sequences, which Windows 10 and later can; False when it will not."""
    import ctypes

    kernel32 = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
    stdout, enable_virtual_terminal_processing = -11, 0x0004  # winbase.h, consoleapi.h
    handle = kernel32.GetStdHandle(stdout)
    mode = ctypes.c_ulong()
    if not kernel32.GetConsoleMode(handle, ctypes.byref(mode)):
        return False
    return bool(kernel32.SetConsoleMode(handle, mode.value | enable_virtual_terminal_processing))
