"""`make demo`: a small CLI, the servers it may meet, and the fate of its events.

The CLI and its senders are real processes; the servers run on threads of this one, on loopback. No time limit is
shortened, so the demo ends with a wait for the senders of the server that hangs. All have a home directory of the
demo's: the user's choice and id are neither read nor written.

Exits with 0 when everything was right, with 1 otherwise, and names each problem.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from tests.demo.verdict import EVENTS, Scene, problems, sender_problems, untried
from tests.support_processes import MARK, happens, new_mark, senders

from atotelemetry.testing import Answer, CaptureServer

ROUNDS = 9
HEALTHY_DELAY = 0.1
PATIENCE = 20.0  # for anything that takes a moment
SENDERS_GONE_WITHIN = 15.0 + 10.0  # their deadline, and a margin for a busy machine

EXAMPLE = str(Path(__file__).with_name("example.py"))
NOBODY = "http://127.0.0.1:9"  # where nobody listens
OUTPUT = "built blinky, 7 parts\n"
INTRODUCTION = f"""
A small CLI captures {len(EVENTS)} events a run. Its server is healthy (it answers after \
{HEALTHY_DELAY * 1000:.0f} ms), or hangs, or is down. Wall times are medians of {{}} rounds; each round runs the CLI \
with telemetry off and against every server, in turn. Single runs on a busy machine differ by more than telemetry \
costs: compare the medians, and look at the spread.

At last the CLI is killed (SIGKILL) after its last event was handed over. Handed over means: the event is in the pipe \
to the sender, some milliseconds after its capture. From then on the CLI's death cannot lose it. Then it crashes \
(SIGSEGV) with `report_crash=True`: its sender adds a report with the stack.
"""


class Demo:
    """The servers, and the runs of the CLI in `directory`. `cleanup` stops the servers."""

    def __init__(self, directory: Path, cleanup: contextlib.ExitStack) -> None:
        self.directory = directory
        self.mark = os.environ.setdefault(MARK, new_mark())  # by which our processes are known
        healthy = Answer(delay=HEALTHY_DELAY)
        self.off = Scene("none (telemetry off)", events=())
        self.hanging = Scene("hangs (never answers)", Answer(hang=True))
        self.servers = [Scene("healthy", healthy), self.hanging, Scene("down (nobody listens)")]
        self.deaths = [Scene("healthy, but CLI killed", healthy, "--was-killed")]
        if sys.platform != "win32":
            self.deaths.append(Scene("healthy, but CLI crashes", healthy, "--crashed", (*EVENTS, "$exception")))
        self.measured = self.servers + self.deaths
        for scene in self.measured:
            if scene.answer:
                scene.server = cleanup.enter_context(CaptureServer())
                scene.server.respond(scene.answer)
        self.expected = 0  # senders so far
        for home in ("home", "home-off", "cache"):
            (directory / home).mkdir()

    def measure(self) -> None:
        """Run the CLI in each scene in turn, `ROUNDS` times, and at last once in each where it dies.

        Each round has an order of its own, so a burst of load on the machine meets every row of the table.
        """
        self.run(self.off)  # compiles the CLI's modules
        self.off.wall.clear()
        for _ in range(ROUNDS):
            for scene in random.sample([self.off, *self.servers], 1 + len(self.servers)):
                self.run(scene)
        for scene in self.deaths:
            self.run(scene)

    def run(self, scene: Scene) -> None:
        """Run the CLI to the end of its output, as `$(cli)` in a shell waits for it, and wait for its effect."""
        command = [sys.executable, EXAMPLE, *scene.argument.split()]
        options = {"env": self.environment(scene), "cwd": self.directory, "timeout": SENDERS_GONE_WITHIN}
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
        scene.wall.append(time.perf_counter() - started)
        scene.ended_at = time.time()
        if (done.returncode != 0, done.stdout, done.stderr) != (scene.argument != "", OUTPUT, ""):
            said = f"a run of the CLI ended with {done.returncode} and printed {done.stdout + done.stderr!r:.200}"
            scene.oddities.append(said)
        self.expected += scene is not self.off
        happens(lambda: self.has_settled(scene), PATIENCE)  # what does not is named at the end

    def environment(self, scene: Scene) -> dict[str, str]:
        """Return this process's environment with a home of the demo's, and nothing else that decides on telemetry."""
        decides = re.compile("ATO_|EXAMPLE_|DO_NOT_TRACK|.*_PROXY$", re.IGNORECASE)
        kept = {name: value for name, value in os.environ.items() if not decides.match(name)}
        home = str(self.directory / ("home" if scene.events else "home-off"))
        kept |= dict.fromkeys(("HOME", "USERPROFILE", "XDG_CONFIG_HOME", "LOCALAPPDATA", "APPDATA"), home)
        # Senders note there that a network failed, and the next run heeds it: here every run is the first.
        kept["XDG_CACHE_HOME"] = tempfile.mkdtemp(dir=self.directory / "cache")
        kept["ATO_TELEMETRY_LOG"] = str(self.directory / "log")
        if not scene.events:
            return {**kept, "DO_NOT_TRACK": "1"}
        # Asked for in so many words: in CI it would be off.
        url = scene.server.url if scene.server else NOBODY
        return {**kept, "EXAMPLE_TELEMETRY": "on", "EXAMPLE_SERVICES_TELEMETRY_URL": url}

    def has_settled(self, scene: Scene) -> bool:
        """Whether the runs have had their effect, so that the next one has the machine to itself."""
        if scene.deliverable:
            return len(scene.accepted) >= scene.deliverable
        return len(self.heard()) >= self.expected and (not scene.server or len(scene.requests) >= len(scene.wall))

    def heard(self, word: str = "") -> set[str]:
        """Return the process ids of all senders that logged `word` at the start of a line; at their end it is done."""
        log = self.directory / "log"
        text = log.read_text("utf-8", "replace") if log.exists() else ""
        return set(re.findall(rf" sender\[(\d+)\] {word}", text))

    def problems(self) -> list[str]:
        """Wait for the last sender to end, and return every problem of the whole demo."""
        happens(lambda: len(self.heard("done:")) >= self.expected and not senders(self.mark), SENDERS_GONE_WITHIN)
        found = list(self.off.oddities)
        for scene in self.measured:
            found += [f"{scene.title}: {problem}" for problem in problems(scene, self.off.wall)]
        found += [f"{self.hanging.title}: {problem}" for problem in untried(self.hanging)]
        if any((self.directory / "home-off").iterdir()):
            found.append("telemetry that was off left something behind")
        started, ended, alive = len(self.heard()), len(self.heard("done:")), len(senders(self.mark))
        return found + sender_problems(self.expected, started, ended, alive)


# ---- the report


def show_table(console: Console, off: Scene, others: list[Scene]) -> None:
    """Print a row for each scene: wall time, the cost of telemetry, and how many events arrived."""
    table = Table("server", box=box.SIMPLE_HEAD, show_edge=False)
    for name in ("wall time", "gained by telemetry", "delivered / captured"):
        table.add_column(name, justify="right")
    table.add_row(off.title, spread(off.wall))
    for scene in others:
        gained = [on - without for on, without in zip(scene.wall, off.wall, strict=False)]
        verdict = ("not ok", "bold red") if problems(scene, off.wall) else ("ok", "green")
        delivered = Text.assemble(f"{len(scene.accepted)} / {scene.captured}  ", verdict)
        table.add_row(scene.title, spread(scene.wall), "-" if scene.argument else spread(gained, "+"), delivered)
    console.print(table)


def spread(seconds: list[float], sign: str = "") -> str:
    """Return the median, and in parentheses the least and the most, in milliseconds."""
    middle, *ends = (f"{value * 1000:{sign}.0f}" for value in (median(seconds), min(seconds), max(seconds)))
    return f"{middle} ms" + (f" ({' to '.join(ends)})" if len(seconds) > 1 else "")


def show_events(console: Console, shown: dict[str, Scene]) -> None:
    """Print the requests of the last run of each scene; properties that all share come once, at the end."""
    last = {title: scene.runs[-1] if scene.runs else [] for title, scene in shown.items()}
    every = [properties(event) for run in last.values() for request in run for event in request.events]
    shared = {key: value for key, value in (every or [{}])[0].items() if all(it.get(key, it) == value for it in every)}
    for title, run in last.items():
        console.print(f"\nWhat arrived of the {title}", style="bold")
        for request in run:
            after = (request.received_at - shown[title].ended_at) * 1000
            when = f"{abs(after):.0f} ms {'after' if after >= 0 else 'before'} the end of the CLI"
            console.print(f"  {request.method} {request.path} with {len(request.events)} events, {when}", style="dim")
            for event in request.events:
                console.print(f"    {event['event']:{max(map(len, EVENTS))}}  {event.get('timestamp')}", style="cyan")
                for key, value in properties(event).items():
                    if key not in {*shared, "run_id", "$exception_list"}:
                        console.print(textwrap.indent(f"{key}: {as_text(value)}", " " * 6))
        if run:
            console.print(
                f"    of this run: run_id={as_text(run[0].events[0]['properties'].get('run_id'))}", style="dim"
            )
    words = " ".join(["all events:", *(f"{key}={as_text(value)}" for key, value in shared.items())])
    console.print("", Padding(words, (0, 0, 0, 4)), style="dim")


def properties(event: dict[str, Any]) -> dict[str, Any]:
    """Return what an event says, its `distinct_id` first."""
    return {"distinct_id": event.get("distinct_id"), **event["properties"]}


def as_text(value: Any) -> str:
    """Return a value as JSON, but a float with the microseconds that a clock knows, and lines as lines."""
    if isinstance(value, str) and "\n" in value:
        return "\n" + value.rstrip()
    return json.dumps(round(value, 6) if isinstance(value, float) else value, ensure_ascii=False)


def main() -> int:
    """Run the demo; return the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):  # neither the CLIs nor the files of a demo outlive it
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    sys.stdout.reconfigure(errors="backslashreplace")  # a property may hold what the terminal cannot show
    console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 100)
    console.print("atotelemetry demo", style="bold")
    console.print(INTRODUCTION.format(ROUNDS))
    with contextlib.ExitStack() as cleanup:
        directory = Path(tempfile.mkdtemp(prefix="atotelemetry-demo-"))
        # Again when a sender that has just started put its log there meanwhile.
        cleanup.callback(happens, lambda: shutil.rmtree(directory, ignore_errors=True) or not directory.exists(), 2.0)
        waits = f"{ROUNDS} rounds, and a wait for the senders of the server that hangs to give up"
        status = cleanup.enter_context(console.status(waits, refresh_per_second=2))
        demo = Demo(directory, cleanup)
        demo.measure()
        show_table(console, demo.off, demo.measured)
        died = {f"run that {scene.argument[2:].replace('-', ' ')}": scene for scene in demo.deaths}
        show_events(console, {"last run with the healthy server": demo.servers[0], **died})
        found = demo.problems()
        status.stop()
        last = f"those of the hanging server {time.time() - demo.hanging.ended_at:.0f} s after their CLI"
        right = [
            "every event arrived exactly once where a server took it, also those of a CLI that died",
            "the CLI printed the same in every run, and no run waited for a server",
            "telemetry that was off started nothing and left nothing behind",
            f"no process left: all {len(demo.heard('done:'))} senders have ended, {last}",
        ]
    console.print("\nNot as it should be:" if found else "", style="bold red")
    good, bad = "+x" if console.options.ascii_only else "✓✗"
    marked = Table.grid(padding=(0, 1))
    for line in found or right:
        marked.add_row("", Text(bad, "bold red") if found else Text(good, "green"), line)
    console.print(marked)
    console.print("\nHow to go on: README shows how to use this in your CLI; `atotelemetry serve` prints its events.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
