"""What is measured, and how often: one table.

Each scenario runs its contenders in turn, A B C A B C, so that whatever else the machine does meets all of them alike.
Where there are five rounds or more a first one warms up (compiled files, page cache) and is thrown away. Between two
runs every process that the last one left behind has ended, or waits and does nothing: no contender pays for another
one's sender. Times are seconds. The results are plain dictionaries, ready for JSON:
`results[scenario][section][contender][figure]` is a summary.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, NamedTuple
from unittest import mock

from atotelemetry.facts import breaker
from atotelemetry.facts.run import RUN_PROPERTIES

from .measure import HOSTS, Laboratory, Servers
from .summary import less, summary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["FULL", "MAIN", "QUICK", "SCENARIOS", "Scenario", "measure"]

OURS, APP, POSTHOG, AS_ATOPILE, BATCHING, SENTRY, IN_PROCESS, FLOOR, LEAN_FLOOR, SENDER_FLOOR, FLOORS, NONE = (
    "atotelemetry",
    "atotelemetry_app",
    "posthog",
    "posthog_atopile",
    "posthog_batching",
    "sentry",
    "in_process",
    "floor",
    "lean_floor",
    "sender_floor",
    "floors",
    "none",
)
PEERS = (OURS, IN_PROCESS, POSTHOG, SENTRY)
PROGRAMS = (NONE, FLOOR, *PEERS)
LIMIT = 15.0
"""Seconds after which a program is killed and counted as having taken that long."""
WARM_UP_FROM = 5
"""So many rounds are worth another one before them."""
PATIENCE = 20.0
"""Seconds to wait for the ends of senders whose server never lets them finish."""


class Bench(NamedTuple):
    laboratory: Laboratory
    servers: Servers


class Scenario(NamedTuple):
    """One section of the results: `measure` is called with a bench and a contender, and returns figures, or None."""

    name: str
    section: str
    contenders: tuple[str, ...]
    measure: Callable[[Bench, str], Mapping[str, float] | None]
    rounds: tuple[int, int, int]
    """Of a full run, of the main table on another Python, of a quick run."""
    fewer: Mapping[str, int] = {}
    """Rounds of contenders that take long; only a full run has them."""


FULL, MAIN, QUICK = range(3)


def measure(kind, laboratory, servers, say, only=""):
    """Run everything (`kind`: FULL, MAIN or QUICK), or `only` one scenario; return the results.

    Also how many CPUs' worth other processes took during each scenario. `say` is told what is being done.
    """
    bench, results, others = Bench(laboratory, servers), {}, {}
    for scenario in SCENARIOS:
        rounds = scenario.rounds[kind]
        if not rounds or only not in {"", scenario.name}:
            continue
        label = ", ".join(filter(None, (scenario.name, scenario.section)))
        say(f"{label} ({rounds} rounds)")
        before, began = laboratory.cpu_of_others(), time.monotonic()
        contenders = {name: scenario.fewer.get(name, rounds) for name in scenario.contenders}
        if kind != FULL:
            contenders = {name: rounds for name in contenders if name not in scenario.fewer}
        seen = in_turn(contenders, functools.partial(scenario.measure, bench))
        if kind == QUICK:
            laboratory.clear()
        laboratory.settle(until_gone=PATIENCE)
        if before is not None:
            others[label] = max(0.0, laboratory.cpu_of_others() - before) / (time.monotonic() - began)
        results.setdefault(scenario.name, {})[scenario.section] = summed_up(seen)
    return results, others


def in_turn(contenders, measure):
    """Measure each contender as often as it says; return what its runs gave."""
    seen = {name: [] for name in contenders}
    most = max(contenders.values())
    if most >= WARM_UP_FROM:
        for name in contenders:
            if contenders[name] == most:
                measure(name)
    for turn in range(most):
        for name, reports in seen.items():
            report = measure(name) if turn < contenders[name] else None
            if report is not None:
                reports.append(report)
    return seen


def summed_up(seen):
    """Return a summary of each figure, and of what it is more than without telemetry."""
    results = {}
    for name, reports in seen.items():
        figures = results[name] = {}
        for figure in reports[0] if reports else ():
            values = [report[figure] for report in reports]
            figures[figure] = summary(values)
            if NONE in seen:
                figures[f"{figure}_gained"] = summary(less(values, [report[figure] for report in seen[NONE]]))
    return results


# ---- how


def program(frame, behaviour, bench, name):
    """Run a whole program; and where the server lets a sender finish, wait for that, too."""
    laboratory, servers = bench
    run = laboratory.run(f"cli_{frame}", name, servers.urls[behaviour], limit=LIMIT)
    figures = {"wall": run.wall, "cpu": run.cpu, "capped": run.capped}
    left = laboratory.settle(until_gone=PATIENCE if behaviour == "healthy" else 0.0)
    return {**figures, "total_cpu": run.cpu + sum(each.cpu for each in left)} if behaviour == "healthy" else figures


def whatever_the_server_does(bench, case):
    """Let our program meet each server in turn, and none at all."""
    laboratory, servers = bench
    name, behaviour, cache = OURS, case, None
    if case == NONE:
        name, behaviour = NONE, "healthy"
    if case == "breaker_open":
        behaviour, cache = "dead", network_is_down(laboratory, servers.urls["dead"])
    run = laboratory.run("cli_bare", name, servers.urls[behaviour], limit=LIMIT, cache=cache)
    laboratory.settle()
    return {"wall": run.wall, "cpu": run.cpu}


def network_is_down(laboratory, url):
    """Return a cache directory that says so."""
    cache = tempfile.mkdtemp(prefix="cache-", dir=laboratory.home)
    with mock.patch.dict(os.environ, XDG_CACHE_HOME=cache):
        note = pathlib.Path(breaker.note_of("atopile", url))
    note.parent.mkdir()
    note.write_bytes(breaker.encode(2, time.time()))
    return cache


def life_of_a_sender(bench, behaviour):
    laboratory, servers = bench
    run = laboratory.run("cli_bare", OURS, servers.urls[behaviour])
    left = laboratory.settle(until_gone=PATIENCE)
    if not left:
        return None
    cpu = run.cpu + sum(each.cpu for each in left)
    return {"life": max(each.life for each in left), "total_cpu": cpu}


def sender_alone(bench, name):
    """Let a sender deliver two events, with a run's properties or without, or do the least that one can."""
    laboratory, servers = bench
    url = servers.urls["fast"]
    servers.reset()
    if name == SENDER_FLOOR:
        return laboratory.burden([str(HOSTS / "sender_floor.py"), url], b"")
    subprocess.run(["git", "init", "--quiet", laboratory.home], check=True)
    stream = two_events(url, laboratory.home, RUN_PROPERTIES if name == APP else ())
    burden = laboratory.burden(["-m", "atotelemetry.sender", "--detached"], stream)
    if burden and servers.wait(2, 5.0)["distinct"] != 2:
        raise RuntimeError("a sender did not deliver its two events")
    return burden


def two_events(url, directory, run_properties):
    """Return the input of a sender that a program with two events starts."""
    hello = {"type": "hello", "protocol": 1, "api_key": "phc_bench", "host": url, "app": "bench", "app_version": "1.0"}
    lines = [{**hello, "cwd": directory, "run_properties": run_properties}]
    for number, event in enumerate(("run started", "run ended")):
        uuid, moment = f"0190c0de-0000-7000-8000-{number:012x}", "2030-01-02T03:04:05.678901Z"
        properties = {"command": "build", "verbose": False, "targets": 3}
        lines.append({"uuid": uuid, "event": event, "distinct_id": "me", "timestamp": moment, "properties": properties})
    lines.append({"type": "end", "captured": 2})
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


IMPORTS = {
    NONE: "pass",
    OURS: "import atotelemetry",
    "msgspec": "import msgspec",
    "msgspec_light": "from atotelemetry.host.lazy import load; load('msgspec')",
    "httpx": "import httpx",
    POSTHOG: "import posthog",
    SENTRY: "import sentry_sdk",
}


def imports(loaded, bench, name):
    run = bench.laboratory.run_code(f"{loaded}; {IMPORTS[name]}")
    return {"wall": run.wall, "cpu": run.cpu}


def looks_at_itself(work, bench, name):
    """Let the program measure its import, set-up, first capture, exit hooks and peak memory."""
    report = bench.laboratory.ask("inside", name, bench.servers.urls["healthy"], work)
    bench.laboratory.settle(until_gone=PATIENCE)
    return report


def steady(kind, events, bench, name):
    report = bench.laboratory.ask("steady", name, bench.servers.urls["fast"], kind, events)
    bench.laboratory.settle(until_gone=10.0)
    return report


def stream(server, count, bench, name):
    """Events per second from the first capture to the last accepted answer."""
    laboratory, servers = bench
    servers.reset()
    report = laboratory.ask("stream", name, servers.urls[server], count, limit=240.0)
    arrived = servers.wait(count, 30.0)
    laboratory.settle(until_gone=10.0)
    return {
        "events_per_second": arrived["distinct"] / (arrived["last_at"] - report["began"]),
        "capturing": report["capturing"],
        "requests": arrived["requests"],
        "lost": count - arrived["distinct"],
        "doubled": arrived["events"] - arrived["distinct"],
    }


def at_once(number, bench, name):
    """Start many programs together: how long until the last has ended, and until the last of their events is in."""
    laboratory, servers = bench
    servers.reset()
    began = time.monotonic()
    laboratory.join([laboratory.start("cli_bare", name, servers.urls["healthy"]) for _ in range(number)])
    wall = time.monotonic() - began
    expected = 0 if name == NONE else 2 * number
    arrived = servers.wait(expected, 20.0)
    laboratory.settle(until_gone=PATIENCE)
    return {"wall": wall, "all_in": arrived["last_at"] - began, "missing": expected - arrived["distinct"]}


def dead_network(bench, name):
    """120 runs, eight a second. Of the others fewer: nothing piles up longer than one of their runs takes."""
    return bench.laboratory.crowd(120 if name == OURS else 40, 1 / 8, "cli_bare", name, bench.servers.urls["dead"])


def pipeline(bench, _):
    return bench.laboratory.ask("pipeline", bench.servers.urls["fast"], 20_000)


def spawning(bench, mebibytes):
    return bench.laboratory.ask("spawning", mebibytes)


# ---- the table

_run = functools.partial
_ALL = (NONE, FLOOR, LEAN_FLOOR, FLOORS, OURS, APP, IN_PROCESS, POSTHOG, AS_ATOPILE, SENTRY)
_SLOW = (NONE, FLOOR, OURS, IN_PROCESS, POSTHOG, AS_ATOPILE, SENTRY)
_SERVERS = (NONE, "healthy", "hanging", "refusing", "unavailable", "breaker_open")
_TYPED = "import typing, re, enum, datetime"

SCENARIOS = (
    # name, section, contenders, how; rounds of a full run, of the main table on another Python, of a quick run
    Scenario("runs", "healthy", _ALL, _run(program, "bare", "healthy"), (17, 7, 2)),
    Scenario("runs", "hanging", _SLOW, _run(program, "bare", "hanging"), (4, 2, 1), {AS_ATOPILE: 1}),
    Scenario("runs", "refusing", _SLOW, _run(program, "bare", "refusing"), (4, 2, 1), {AS_ATOPILE: 1}),
    Scenario("runs", "unavailable", PROGRAMS, _run(program, "bare", "unavailable"), (3, 0, 0)),
    Scenario("programs", "typer", PROGRAMS, _run(program, "typer", "healthy"), (7, 0, 1)),
    Scenario("programs", "loaded", (NONE, FLOOR, OURS), _run(program, "loaded", "healthy"), (7, 0, 0)),
    Scenario("programs", "error", PROGRAMS, _run(program, "error", "healthy"), (7, 0, 1)),
    Scenario("programs", "forking", PROGRAMS, _run(program, "forking", "healthy"), (5, 0, 0)),
    Scenario("servers", "", _SERVERS, whatever_the_server_does, (17, 0, 0)),
    Scenario("life", "", _SERVERS[1:5], life_of_a_sender, (1, 0, 0)),
    Scenario("sender", "", (SENDER_FLOOR, OURS, APP), sender_alone, (25, 5, 3)),
    Scenario("import", "bare", tuple(IMPORTS), _run(imports, "pass"), (11, 5, 2)),
    Scenario("import", "typed", (NONE, "msgspec", "msgspec_light"), _run(imports, _TYPED), (11, 0, 2)),
    Scenario("inside", "at once", PROGRAMS, _run(looks_at_itself, 0.0), (7, 3, 1)),
    Scenario("inside", "work", (NONE, OURS), _run(looks_at_itself, 0.05), (7, 0, 0)),
    Scenario("steady", "10", PEERS, _run(steady, "10", 2000), (3, 0, 1)),
    Scenario("steady", "list", PEERS, _run(steady, "list", 2000), (3, 0, 1)),
    Scenario("steady", "100 dicts", (OURS, IN_PROCESS, POSTHOG), _run(steady, "100 dicts", 500), (3, 0, 1)),
    Scenario("steady", "1000 dicts", (OURS, IN_PROCESS, POSTHOG), _run(steady, "1000 dicts", 200), (3, 0, 1)),
    Scenario("steady", "exception", PEERS, _run(steady, "exception", 250), (3, 0, 1)),
    Scenario("stream", "fast 1000", (*PEERS, AS_ATOPILE), _run(stream, "fast", 1_000), (3, 0, 0)),
    Scenario("stream", "fast 20000", (OURS, POSTHOG, BATCHING), _run(stream, "fast", 20_000), (4, 0, 1)),
    Scenario("stream", "fast 100000", (OURS,), _run(stream, "fast", 100_000), (3, 0, 0)),
    Scenario(
        "stream", "healthy 20000", (OURS, BATCHING, POSTHOG), _run(stream, "healthy", 20_000), (3, 0, 0), {POSTHOG: 1}
    ),
    Scenario("limits", "", ("pipeline",), pipeline, (5, 0, 1)),
    Scenario("spawn", "", ("0", "1024"), spawning, (5, 0, 1)),
    Scenario("at once", "8", (NONE, *PEERS), _run(at_once, 8), (1, 0, 0)),
    Scenario("at once", "64", (NONE, *PEERS), _run(at_once, 64), (1, 0, 0)),
    Scenario("dead network", "", (OURS, IN_PROCESS, POSTHOG), dead_network, (1, 0, 0)),
)
