"""The budgets of the design (section 8), each judged on the results of one run. Pure.

A budget line says what was allowed, what was measured, and how much of the allowance that is: a ratio of 1.00 or less
is met. Where the allowance is itself measured (a part of the peer's cost, a multiple of the floor), it comes from the
same run. "posthog" is that SDK with its defaults, which is the hardest to beat; where atopile's own settings are meant
the line says so.
"""

from __future__ import annotations

from typing import NamedTuple

from .summary import ratio

__all__ = ["Budget", "judge"]

MILLISECOND = 1e-3
MICROSECOND = 1e-6
MEBIBYTE = 2**20


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

    def look(*path):
        found = results
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def at_most(what, allowed, measured, unit):
        size = {"ms": MILLISECOND, "µs": MICROSECOND, "s": 1.0, "MiB": MEBIBYTE, "times": 1.0}[unit]
        return Budget(what, allowed, None if measured is None else measured / size, unit)

    def gained(frame, behaviour, name):
        return look("runs", frame, behaviour, name, "wall_gained", "median")

    def share(what, parts, peer, ours):
        return Budget(
            what,
            None if peer is None else peer / parts / MILLISECOND,
            None if ours is None else ours / MILLISECOND,
            "ms",
        )

    ours, posthog = "atotelemetry", "posthog"
    lines = [
        at_most(
            "import atotelemetry, over a bare interpreter", 2.0, look("import", ours, "wall_gained", "median"), "ms"
        ),
        *(
            at_most(f"capture() of {what}, median", allowed, look("steady", kind, ours, "median", "median"), "µs")
            for what, kind, allowed in (
                ("ten scalar properties", "scalars", 3.0),
                ("ten properties, one a short list", "list", 4.0),
                ("a list of 100 small dicts", "100 dicts", 20.0),
                ("a list of 1,000 small dicts", "1000 dicts", 200.0),
            )
        ),
        Budget(
            "capture() of ten scalar properties, times the bare encoding",
            9.0,
            ratio(
                look("steady", "scalars", ours, "median", "median"), look("steady", "scalars", ours, "bare", "median")
            ),
            "times",
        ),
        Budget(
            "capture() of ten properties, faster than posthog",
            30.0,
            ratio(look("steady", "10", posthog, "median", "median"), look("steady", "10", ours, "median", "median")),
            "times",
            at_least=True,
        ),
        share(
            "two-event run gains, healthy server: 1/8 of posthog",
            8,
            gained("bare", "healthy", posthog),
            gained("bare", "healthy", ours),
        ),
    ]
    lines += [
        share(
            f"two-event run gains, {behaviour} server: 1/22 of posthog",
            22,
            gained("bare", behaviour, posthog),
            gained("bare", behaviour, ours),
        )
        for behaviour in ("refusing", "hanging")
    ]
    lines.append(
        Budget(
            "two-event run gains, against the floor of this run",
            1.25,
            ratio(gained("bare", "healthy", ours), gained("bare", "healthy", "floor")),
            "times",
        )
    )
    # Runs of their own, in turn, so that a machine that changes its pace takes no part.
    measured = [each["median"] for each in (look("servers") or {}).values() if each["median"] > 0]
    if measured:
        # "The same" needs a tolerance: a quarter, which on a quiet machine is far above the noise.
        what = "two-event run gains the same whatever the server does: worst against best"
        lines.append(Budget(what, 1.25, max(measured) / min(measured), "times"))
    lines += [
        at_most("exit hook, median, exit at once", 5.0, look("inside", "at_once", ours, "exit_hook", "median"), "ms"),
        at_most("exit hook, median, after work", 5.0, look("inside", "after_work", ours, "exit_hook", "median"), "ms"),
        at_most(
            "host's peak memory gained", 5.0, look("inside", "at_once", ours, "peak_bytes_gained", "median"), "MiB"
        ),
        at_most("sender's peak memory", 30.0, look("sender", "atotelemetry_app", "peak_bytes", "median"), "MiB"),
        Budget(
            "sender's CPU of a typical run, against the floor of this run",
            1.10,
            ratio(look("sender", "atotelemetry_app", "cpu", "median"), look("sender", "floor", "cpu", "median")),
            "times",
        ),
    ]
    for server, answers, who, peer in (
        ("healthy", "100 ms", "posthog's defaults", posthog),
        ("fast", "0 ms", "posthog as atopile sets it up", "posthog_atopile"),
        ("fast", "0 ms", "posthog's defaults", posthog),
    ):
        rate = look("stream", server, ours, "20000", "events_per_second", "median")
        counts = look("stream", server, peer) or {}
        largest = max(counts, key=int, default=None)
        other = look("stream", server, peer, largest, "events_per_second", "median")
        what = f"events per second, server at {answers}, against {who}"
        lines.append(Budget(what, 20.0, ratio(rate, other), "times", at_least=True))
    lost = [run["lost"] for runs in (look("stream") or {}).values() for run in runs.get(ours, {}).values()]
    lines.append(Budget("events lost while the queue is not full", 0.0, float(sum(lost)) if lost else None, "events"))
    return lines
