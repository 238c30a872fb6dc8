"""The budgets of the design (section 8), each judged on the results of one run. Pure.

A budget line says what was allowed, what was measured, and how much of the allowance that is: a ratio of 1.00 or less
is met. Where the allowance is itself measured (a part of the peer's cost, a multiple of the floor), it comes from the
same run. "posthog" is that SDK with its defaults, which is the hardest to beat.
"""

from __future__ import annotations

from typing import NamedTuple

from .summary import ratio

__all__ = ["Budget", "judge"]

UNITS = {"ms": 1e-3, "µs": 1e-6, "MiB": 2**20, "times": 1.0, "events": 1.0}
OURS, POSTHOG, FLOOR = "atotelemetry", "posthog", "floor"


class Budget(NamedTuple):
    """One line: `measured` may be at most `allowed` (or at least, where `at_least`), both in `unit`."""

    what: str
    allowed: float | None
    measured: float | None
    unit: str
    at_least: bool = False

    @property
    def ratio(self):
        """How much of the allowance is used: 1 or less is met; None when it says nothing (an allowance of zero)."""
        if self.at_least:
            return ratio(self.allowed, self.measured)
        return ratio(self.measured, self.allowed)

    @property
    def met(self):
        """Whether it is kept; None when it was not measured."""
        if self.measured is None or self.allowed is None:
            return None
        return self.measured >= self.allowed if self.at_least else self.measured <= self.allowed


def judge(results):
    """Return every budget line for one set of results."""

    def look(*path, value="median"):
        found = results
        for key in (*path, value):
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def at_most(what, allowed, unit, *path):
        measured = look(*path)
        return Budget(what, allowed, None if measured is None else measured / UNITS[unit], unit)

    def part(what, parts, *path):
        """Judge our figure by a part of posthog's."""
        ours, peer = look(*path[:-1], OURS, path[-1]), look(*path[:-1], POSTHOG, path[-1])
        allowed = None if peer is None else peer / parts / UNITS["ms"]
        return Budget(what, allowed, None if ours is None else ours / UNITS["ms"], "ms")

    def multiple(what, allowed, path, of, *, at_least=False):
        return Budget(what, allowed, ratio(look(*path), look(*of)), "times", at_least)

    gained, total = "wall_gained", "total_cpu_gained"
    scalars = ("steady", "10", OURS)
    lines = [
        at_most("import atotelemetry, over a bare interpreter", 2.0, "ms", "import", "bare", OURS, gained),
        *(
            at_most(f"capture() of {what}, median", allowed, "µs", "steady", kind, OURS, "median")
            for what, kind, allowed in (
                ("ten scalar properties", "10", 3.0),
                ("ten properties, one a short list", "list", 4.0),
                ("a list of 100 small dicts", "100 dicts", 20.0),
                ("a list of 1,000 small dicts", "1000 dicts", 200.0),
            )
        ),
        multiple("the same of ten scalars, times the bare encoding", 9.0, (*scalars, "median"), (*scalars, "bare")),
        part("two-event run gains, healthy server: 1/9 of posthog", 9, "runs", "healthy", gained),
        *(
            part(f"two-event run gains, {behaviour} server: 1/30 of posthog", 30, "runs", behaviour, gained)
            for behaviour in ("refusing", "hanging")
        ),
        multiple(
            "two-event run gains, times the floor of this run",
            1.25,
            ("runs", "healthy", OURS, gained),
            ("runs", "healthy", FLOOR, gained),
        ),
    ]
    # Runs of their own, in turn, so that a machine that changes its pace takes no part.
    measured = [look("servers", "", name, gained) for name in ("healthy", "hanging", "refusing", "unavailable")]
    # "The same" needs a tolerance: a quarter, which on a quiet machine is far above the noise.
    what = "two-event run gains the same whatever the server does: worst against best"
    spread = ratio(max(measured), min(measured)) if None not in measured else None
    lines += [
        Budget(what, 1.25, spread, "times"),
        at_most("exit hook, median, exit at once", 5.0, "ms", "inside", "at once", OURS, "exit_hook"),
        at_most("exit hook, median, after work", 5.0, "ms", "inside", "work", OURS, "exit_hook"),
        at_most("host's peak memory gained", 5.0, "MiB", "inside", "at once", OURS, "peak_bytes_gained"),
        at_most("sender's peak memory", 30.0, "MiB", "sender", "", "atotelemetry_app", "peak_bytes"),
        multiple(
            "sender's CPU of a typical run, times its floor",
            1.10,
            ("sender", "", "atotelemetry_app", "cpu"),
            ("sender", "", "sender_floor", "cpu"),
        ),
        multiple(
            "CPU of program and sender, times both floors",
            1.15,
            ("runs", "healthy", OURS, total),
            ("runs", "healthy", "floors", total),
        ),
        *(
            multiple(
                f"events per second, server at {answers}, times posthog's",
                allowed,
                ("stream", section, OURS, "events_per_second"),
                ("stream", section, POSTHOG, "events_per_second"),
                at_least=True,
            )
            for section, answers, allowed in (("healthy 20000", "100 ms", 20.0), ("fast 20000", "0 ms", 6.0))
        ),
    ]
    lost = [look("stream", section, OURS, "lost", value="max") for section in results.get("stream", {})]
    lines.append(Budget("events lost while the queue is not full", 0.0, float(sum(lost)) if lost else None, "events"))
    return lines
