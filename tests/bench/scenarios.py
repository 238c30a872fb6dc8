"""What is measured, and how often.

Each scenario runs its contenders in turn, A B C A B C, so that whatever else the machine does meets all of them alike;
the first round warms up (compiled files, page cache) and is thrown away. Between two runs every process that the last
one left behind has ended, or waits and does nothing: no contender pays for another one's sender. A scenario returns
plain dictionaries of summaries, ready for JSON. Times are seconds.
"""

from __future__ import annotations

import json
import subprocess
import time
from typing import NamedTuple

from atotelemetry.facts.run import RUN_PROPERTIES

from .measure import HOSTS
from .summary import less, summary

__all__ = ["FULL", "QUICK", "Plan", "measure"]

OURS, APP, POSTHOG, AS_ATOPILE, BATCHING, SENTRY, FLOOR, NONE = (
    "atotelemetry",
    "atotelemetry_app",
    "posthog",
    "posthog_atopile",
    "posthog_batching",
    "sentry",
    "floor",
    "none",
)
IMPORTS = {
    NONE: "pass",
    OURS: "import atotelemetry",
    POSTHOG: "import posthog",
    SENTRY: "import sentry_sdk",
    FLOOR: "import msgspec",
}
MET_BY_A_HOST = ("healthy", "hanging", "refusing", "unavailable")
WORK = 0.05
"""Seconds that the program works between its events, where it does."""


class Plan(NamedTuple):
    """How often each thing is measured; (frame, server) is the program and the behaviour of the server it talks to."""

    runs: dict[tuple[str, str], int]
    as_atopile: bool
    servers: int
    sender: int
    imports: int
    inside: int
    steady: int
    steady_events: int
    streams: list[tuple[str, str, int, int]]
    """Behaviour of the server, contender, number of events, rounds."""
    at_once: dict[int, int]
    """Number of programs, rounds."""
    patience: float
    """Seconds to wait for the senders' ends where the server never lets them finish."""
    limit: float
    """Seconds after which a program is killed and counted as having taken that long."""


FULL = Plan(
    runs={
        ("bare", "healthy"): 17,
        ("bare", "hanging"): 5,
        ("bare", "refusing"): 7,
        ("bare", "unavailable"): 7,
        ("typer", "healthy"): 7,
        ("typer", "hanging"): 3,
        ("typer", "refusing"): 3,
        ("typer", "unavailable"): 3,
    },
    as_atopile=True,
    servers=41,
    sender=41,
    imports=17,
    inside=9,
    steady=3,
    steady_events=2000,
    streams=[
        ("fast", OURS, 1_000, 5),
        ("fast", OURS, 10_000, 5),
        ("fast", OURS, 20_000, 5),
        ("fast", OURS, 100_000, 3),
        ("fast", POSTHOG, 1_000, 3),
        ("fast", POSTHOG, 10_000, 3),
        ("fast", POSTHOG, 20_000, 3),
        ("fast", BATCHING, 20_000, 3),
        ("fast", AS_ATOPILE, 1_000, 3),
        ("fast", AS_ATOPILE, 5_000, 1),
        ("fast", SENTRY, 1_000, 3),
        ("fast", SENTRY, 5_000, 1),
        ("healthy", OURS, 20_000, 5),
        ("healthy", POSTHOG, 20_000, 2),
        ("healthy", BATCHING, 20_000, 1),
    ],
    at_once={1: 3, 8: 3, 64: 1},
    patience=20.0,
    limit=15.0,
)

QUICK = Plan(
    runs={
        ("bare", "healthy"): 3,
        ("bare", "hanging"): 1,
        ("bare", "refusing"): 1,
        ("bare", "unavailable"): 1,
        ("typer", "healthy"): 2,
    },
    as_atopile=False,
    servers=3,
    sender=5,
    imports=5,
    inside=1,
    steady=1,
    steady_events=1000,
    streams=[
        ("fast", OURS, 1_000, 1),
        ("fast", OURS, 20_000, 1),
        ("fast", POSTHOG, 20_000, 1),
        ("fast", AS_ATOPILE, 1_000, 1),
        ("fast", SENTRY, 1_000, 1),
    ],
    at_once={8: 1},
    patience=0.0,
    limit=5.0,
)


def measure(plan, laboratory, servers, say, only=""):
    """Run everything, or `only` one scenario; return the results by scenario. `say` is told what is being done."""
    results = {}
    for (frame, behaviour), rounds in plan.runs.items():
        if only not in {"", "runs"}:
            continue
        say(f"{frame} program, {behaviour} server ({rounds} rounds)")
        runs = results.setdefault("runs", {}).setdefault(frame, {})
        runs[behaviour] = _runs(plan, laboratory, servers, frame, behaviour, rounds)
    for name, scenario in (
        ("servers", _servers),
        ("sender", _sender),
        ("import", _imports),
        ("inside", _inside),
        ("steady", _steady),
        ("stream", _streams),
        ("at_once", _at_once),
    ):
        if only not in {"", name}:
            continue
        say(name.replace("_", " "))
        results[name] = scenario(plan, laboratory, servers)
    return results


def _runs(plan, laboratory, servers, frame, behaviour, rounds):
    """Whole programs: what two events add to wall time and CPU time, and what the sender costs afterwards."""
    url = servers.urls[behaviour]
    contenders = [NONE, FLOOR, OURS, POSTHOG, SENTRY]
    if frame == "bare":
        contenders += [APP] if behaviour == "healthy" else []
        contenders += [AS_ATOPILE] if plan.as_atopile else []
    wall = {name: [] for name in contenders}
    cpu = {name: [] for name in contenders}
    capped = dict.fromkeys(contenders, 0)
    ended = []
    warm_up = rounds > 1
    for turn in range(rounds + warm_up):
        for name in contenders:
            if name == AS_ATOPILE and behaviour != "healthy" and turn not in {1, 2}:  # it takes ten seconds
                continue
            run = laboratory.run(f"cli_{frame}", name, url, limit=plan.limit)
            # A sender in front of a server that hangs waits for seconds: it is not waited for.
            ended += laboratory.settle()
            if warm_up and turn == 0:
                continue
            wall[name].append(run.wall)
            cpu[name].append(run.cpu)
            capped[name] += run.capped
    ended += laboratory.settle(until_gone=plan.patience)
    # One that ended just now may be of an earlier scenario.
    left = {name: [each for each in ended if each.program == (f"cli_{frame}", name, url)] for name in contenders}
    return {
        name: {
            "wall": summary(wall[name]),
            "wall_gained": summary(less(wall[name], wall[NONE])),
            "cpu_gained": summary(less(cpu[name], cpu[NONE])),
            "capped": capped[name],
            "left_cpu": summary([each.cpu for each in left[name]]),
            "left_peak_bytes": summary([each.peak_bytes for each in left[name]]),
            "left_life": summary([each.life for each in left[name]]),
        }
        for name in contenders
    }


def _servers(plan, laboratory, servers):
    """Let our program meet each server in turn, and none at all: whether the server makes a difference to the host."""
    cases = {NONE: (NONE, "healthy")} | {behaviour: (OURS, behaviour) for behaviour in MET_BY_A_HOST}
    wall = {case: [] for case in cases}
    for turn in range(plan.servers + 1):
        for case, (name, behaviour) in cases.items():
            run = laboratory.run("cli_bare", name, servers.urls[behaviour], limit=plan.limit)
            laboratory.settle()
            if turn:
                wall[case].append(run.wall)
    laboratory.settle(until_gone=plan.patience)
    return {case: summary(less(wall[case], wall[NONE])) for case in MET_BY_A_HOST}


def _sender(plan, laboratory, servers):
    """Let senders alone deliver two events, with a run's properties and without, beside the least that one can cost."""
    url = servers.urls["fast"]
    subprocess.run(["git", "init", "--quiet", laboratory.home], check=True)
    sender = ["-m", "atotelemetry.sender", "--detached"]
    cases = {
        FLOOR: ([str(HOSTS / "sender_floor.py"), url], b""),
        OURS: (sender, _stream(url, laboratory.home, ())),
        APP: (sender, _stream(url, laboratory.home, RUN_PROPERTIES)),
    }
    seen = {name: [] for name in cases}
    for turn in range(plan.sender + 1):
        for name, (arguments, stdin) in cases.items():
            servers.reset()
            burden = laboratory.burden(arguments, stdin)
            if turn and burden:
                seen[name].append(burden)
                if name != FLOOR and servers.wait(2, 5.0)["distinct"] != 2:
                    raise RuntimeError("a sender did not deliver its two events")
    return {
        name: {
            "cpu": summary([cpu for cpu, _ in burdens]),
            "peak_bytes": summary([peak_bytes for _, peak_bytes in burdens]),
        }
        for name, burdens in seen.items()
    }


def _stream(url, directory, run_properties):
    """Return the input of a sender that a program with two events starts."""
    hello = {"type": "hello", "protocol": 1, "api_key": "phc_bench", "host": url, "app": "bench", "app_version": "1.0"}
    hello |= {"cwd": directory, "run_properties": run_properties}
    lines = [hello]
    for number, (event, properties) in enumerate(
        {
            "run started": {"command": "build", "verbose": False, "targets": 3},
            "run ended": {"command": "build", "ok": True, "warnings": 2},
        }.items()
    ):
        uuid, moment = f"0190c0de-0000-7000-8000-{number:012x}", "2030-01-02T03:04:05.678901Z"
        lines.append({"uuid": uuid, "event": event, "distinct_id": "me", "timestamp": moment, "properties": properties})
    lines.append({"type": "end", "captured": 2})
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def _imports(plan, laboratory, servers):
    wall = {name: [] for name in IMPORTS}
    for turn in range(plan.imports + 1):
        for name, code in IMPORTS.items():
            run = laboratory.run_code(code)
            if turn:
                wall[name].append(run.wall)
    return {
        name: {"wall": summary(wall[name]), "wall_gained": summary(less(wall[name], wall[NONE]))} for name in IMPORTS
    }


def _inside(plan, laboratory, servers):
    """Let the program look at itself: import, set-up, first capture, exit hooks, peak memory; with and without work."""
    url = servers.urls["healthy"]
    results = {}
    for label, work in (("at_once", 0.0), ("after_work", WORK)):
        seen = {name: [] for name in (NONE, FLOOR, OURS, POSTHOG, SENTRY)}
        for turn in range(plan.inside + 1):
            for name, reports in seen.items():
                report = laboratory.ask("inside", name, url, work)
                laboratory.settle()
                if turn:
                    reports.append(report)
        nothing = [report["peak_bytes"] for report in seen[NONE]]
        results[label] = {
            name: {
                **{
                    key: summary([report[key] for report in reports])
                    for key in ("import", "setup", "first_capture", "exit_hook")
                },
                "peak_bytes_gained": summary(less([report["peak_bytes"] for report in reports], nothing)),
            }
            for name, reports in seen.items()
        }
    return results


def _steady(plan, laboratory, servers):
    results = {}
    for kind in ("3", "10", "exception", "scalars", "list", "100 dicts", "1000 dicts"):
        events = plan.steady_events // (4 if kind == "exception" else 1)  # each costs milliseconds
        seen = {name: [] for name in ((OURS, POSTHOG, SENTRY) if kind in ("3", "10", "exception") else (OURS,))}
        for _ in range(plan.steady):
            for name, reports in seen.items():
                reports.append(laboratory.ask("steady", name, servers.urls["fast"], kind, events))
                laboratory.settle(until_gone=10.0)
        results[kind] = {
            name: {
                "median": summary([report["median"] for report in reports]),
                "p99": summary([report["p99"] for report in reports]),
                "bare": reports[0].get("bare") and summary([report["bare"] for report in reports]),
                "dropped": reports[0]["dropped"] and sum(report["dropped"] for report in reports),
                "events": events,
            }
            for name, reports in seen.items()
        }
    return results


def _streams(plan, laboratory, servers):
    """Events per second from the first capture to the last accepted answer."""
    results = {}
    seen = {stream[:3]: [] for stream in plan.streams}
    for turn in range(max(rounds for *_, rounds in plan.streams)):
        for server, name, count, rounds in plan.streams:
            if turn >= rounds:
                continue
            servers.reset()
            report = laboratory.ask("stream", name, servers.urls[server], count, limit=240.0)
            arrived = servers.wait(count, 30.0)
            laboratory.settle(until_gone=10.0)
            seen[server, name, count].append({**report, **arrived})
    for (server, name, count), reports in seen.items():
        rates = [report["distinct"] / (report["last_at"] - report["began"]) for report in reports]
        results.setdefault(server, {}).setdefault(name, {})[str(count)] = {
            "events_per_second": summary(rates),
            "capturing": summary([report["capturing"] for report in reports]),
            "lost": sum(count - report["distinct"] for report in reports),
            "doubled": sum(report["events"] - report["distinct"] for report in reports),
            "requests": summary([report["requests"] for report in reports]),
        }
    return results


def _at_once(plan, laboratory, servers):
    """Many programs started together: how long until the last has ended, and how many of their events arrive."""
    results = {}
    for number, rounds in plan.at_once.items():
        seen = {name: [] for name in (NONE, OURS, POSTHOG, SENTRY)}
        for _ in range(rounds):
            for name, reports in seen.items():
                servers.reset()
                started = time.monotonic()
                pids = [laboratory.start("cli_bare", name, servers.urls["healthy"]) for _ in range(number)]
                laboratory.join(pids)
                wall = time.monotonic() - started
                expected = 0 if name == NONE else 2 * number
                arrived = servers.wait(expected, 20.0)
                reports.append({"wall": wall, "arrived": arrived["distinct"], "all_in": arrived["last_at"] - started})
                laboratory.settle(until_gone=15.0)
        nothing = [report["wall"] for report in seen[NONE]]
        results[str(number)] = {
            name: {
                "wall": summary([report["wall"] for report in reports]),
                "wall_gained": summary(less([report["wall"] for report in reports], nothing)),
                "arrived": sum(report["arrived"] for report in reports),
                "expected": 0 if name == NONE else 2 * number * rounds,
                "all_in": None if name == NONE else summary([report["all_in"] for report in reports]),
            }
            for name, reports in seen.items()
        }
    return results
