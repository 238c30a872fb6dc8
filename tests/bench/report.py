"""The results as tables: for the terminal as plain text, for the README as Markdown. Pure: results in, text out."""

from __future__ import annotations

from .budgets import judge
from .summary import ratio

__all__ = ["NAMES", "for_readme", "for_terminal", "in_words"]

NAMES = {
    "none": "no telemetry",
    "floor": "one event into a pipe, nothing else",
    "atotelemetry": "atotelemetry",
    "atotelemetry_app": "atotelemetry, application layer",
    "posthog": "posthog",
    "posthog_atopile": "posthog, atopile's settings",
    "posthog_batching": "posthog, batches of 1000",
    "sentry": "sentry-sdk",
}
SERVERS = {
    "healthy": "healthy (100 ms)",
    "hanging": "hanging",
    "refusing": "refusing",
    "unavailable": "answering 503",
    "fast": "healthy (0 ms)",
}


def milliseconds(summary, digits=1):
    """Return "median (min to max)"."""
    return _spread(summary, 1e3, digits)


def microseconds(summary):
    return _spread(summary, 1e6, 1)


def _spread(summary, factor, digits):
    if not summary:
        return "-"
    low, middle, high = (f"{summary[key] * factor:,.{digits}f}" for key in ("min", "median", "max"))
    return middle if summary["n"] == 1 else f"{middle} ({low} to {high})"


def times(value):
    """Return a ratio as text, short but not misleading."""
    if value is None:
        return "-"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:,.0f}"


def tables(results):
    """Yield each table as its title, its head and its rows."""
    yield from _runs(results["runs"])
    yield _servers(results["servers"])
    yield _imports(results["import"])
    yield from _inside(results["inside"])
    yield _steady(results["steady"])
    if "sender" in results:
        yield _sender_alone(results["sender"])
    yield _sender(results["runs"])
    yield _streams(results["stream"])
    yield _at_once(results["at_once"])


def _runs(runs):
    for frame, behaviours in runs.items():
        for behaviour, contenders in behaviours.items():
            floor = contenders["floor"]["wall_gained"]["median"]
            peer = contenders["posthog"]["wall_gained"]["median"]
            rows = []
            for name, run in contenders.items():
                gained = run["wall_gained"]["median"]
                rows.append(
                    [
                        NAMES[name],
                        ("> " if run["capped"] else "") + milliseconds(run["wall_gained"]),
                        f"{run['wall_gained']['iqr'] * 1e3:.1f}",
                        milliseconds(run["cpu_gained"]),
                        "-" if name == "none" else times(ratio(gained, floor)),
                        "-" if name == "none" else times(ratio(peer, gained)),
                        str(run["wall"]["n"]),
                    ]
                )
            title = f"What two events add to a {frame} program, server {SERVERS[behaviour]}, ms"
            head = ["", "wall time", "iqr", "CPU time", "times the floor", "times less than posthog", "runs"]
            yield title, head, rows


def _servers(servers):
    title = "What two events add to a bare program, whatever the server does, runs in turn, ms"
    return title, ["server", "wall time"], [[SERVERS[name], milliseconds(seen)] for name, seen in servers.items()]


def _imports(imports):
    rows = [[NAMES[name], milliseconds(seen["wall_gained"], 2)] for name, seen in imports.items()]
    return "Import alone, over a bare interpreter, ms (floor: msgspec)", ["", "wall time"], rows


def _inside(inside):
    for label, title in (("at_once", "leaving at once"), ("after_work", "with 50 ms of work between the events")):
        rows = [
            [
                NAMES[name],
                *(milliseconds(seen[key], 2) for key in ("import", "setup", "first_capture", "exit_hook")),
                _spread(seen["peak_bytes_gained"], 2**-20, 2),
            ]
            for name, seen in inside[label].items()
        ]
        head = ["", "import, ms", "set-up, ms", "first capture, ms", "exit hooks, ms", "peak memory gained, MiB"]
        yield f"Inside the program, {title}", head, rows


LABELS = {
    "exception": "an exception",
    "scalars": "ten scalars",
    "list": "nine scalars and a short list",
    "100 dicts": "a list of 100 dicts",
    "1000 dicts": "a list of 1,000 dicts",
}


def _steady(steady):
    rows = []
    for kind, contenders in steady.items():
        label = LABELS.get(kind, f"{kind} properties")
        peer = contenders["posthog"]["median"]["median"] if "posthog" in contenders else None
        for name, seen in contenders.items():
            rows.append(
                [
                    label,
                    NAMES[name],
                    f"{seen['events']:,}",
                    microseconds(seen["median"]),
                    microseconds(seen["p99"]),
                    times(ratio(peer, seen["median"]["median"])),
                    "not told" if seen["dropped"] is None else str(seen["dropped"]),
                ]
            )
    head = ["", "", "events a run", "median, µs", "p99, µs", "times faster than posthog", "dropped"]
    return "capture() in the long run", head, rows


def _sender_alone(sender):
    labels = {
        "floor": "floor: httpx and msgspec imported, one POST",
        "atotelemetry": "sender",
        "atotelemetry_app": "sender, with the properties of the run",
    }
    rows = [
        [
            labels[name],
            milliseconds(seen["cpu"]),
            times(ratio(seen["cpu"]["median"], sender["floor"]["cpu"]["median"])),
            _spread(seen["peak_bytes"], 2**-20, 1),
        ]
        for name, seen in sender.items()
        if seen["cpu"]
    ]
    return "A sender with two events, runs in turn", ["", "CPU time, ms", "times the floor", "peak memory, MiB"], rows


def _sender(runs):
    rows = []
    for frame, behaviours in runs.items():
        for behaviour, contenders in behaviours.items():
            for name in ("atotelemetry", "atotelemetry_app"):
                run = contenders.get(name)
                if run and run["left_cpu"]:
                    rows.append(
                        [
                            f"{frame}, {SERVERS[behaviour]}",
                            NAMES[name],
                            milliseconds(run["left_cpu"], 0),
                            _spread(run["left_peak_bytes"], 2**-20, 1),
                            _spread(run["left_life"], 1, 2),
                            str(run["left_cpu"]["n"]),
                        ]
                    )
    head = ["", "", "CPU time, ms", "peak memory, MiB", "gone after, s", "seen to end"]
    return "The sender (gone after: from the start of the program)", head, rows


def _streams(streams):
    rows = []
    for behaviour, contenders in streams.items():
        peer = contenders.get("posthog", {})
        for name, counts in contenders.items():
            for count, seen in counts.items():
                against = peer.get(count)
                rate = seen["events_per_second"]
                rows.append(
                    [
                        SERVERS[behaviour],
                        NAMES[name],
                        f"{int(count):,}",
                        _spread(rate, 1, 0),
                        times(ratio(rate["median"], against and against["events_per_second"]["median"])),
                        f"{seen['requests']['median']:,.0f}",
                        str(seen["lost"]),
                        str(seen["doubled"]),
                    ]
                )
    head = ["", "", "events", "events per second", "times posthog", "requests", "lost", "doubled"]
    return "End to end: first capture to last accepted answer", head, rows


def _at_once(at_once):
    rows = []
    for number, contenders in at_once.items():
        for name, seen in contenders.items():
            rows.append(
                [
                    number,
                    NAMES[name],
                    _spread(seen["wall"], 1, 2),
                    _spread(seen["wall_gained"], 1, 2),
                    _spread(seen["all_in"], 1, 2),
                    "-" if name == "none" else f"{seen['arrived']} of {seen['expected']}",
                ]
            )
    head = ["programs", "", "until all ended, s", "gained, s", "last event in after, s", "events arrived"]
    return "Many programs at once, server healthy (100 ms)", head, rows


def budget_rows(results):
    """Return the rows of the budget table: what, allowed, measured, ratio, verdict."""
    rows = []
    for line in judge(results):
        limit = "at least" if line.at_least else "at most"
        verdict = {True: "met", False: "NOT met", None: "not measured"}[line.met]
        rows.append(
            [
                line.what,
                "-" if line.allowed is None else f"{limit} {line.allowed:.2f} {line.unit}",
                "-" if line.measured is None else f"{line.measured:.2f} {line.unit}",
                times(line.ratio),
                verdict,
            ]
        )
    return rows


BUDGET_HEAD = ["budget", "allowed", "measured", "used of it", ""]


def circumstances(document):
    """Return one paragraph about machine, versions and noise."""
    machine, load = document["machine"], document["load"]
    peers = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    again = "".join(f" The scenario `{name}` is of a later run." for name in document.get("again", {}))
    return (
        f"{machine['implementation']} {machine['python']} on {machine['system']} {machine['kernel']}, "
        f"{machine['cpus']} CPUs; {peers}. Load average {load['start']:.2f} before and {load['end']:.2f} after "
        f"{document['seconds']:.0f} s of measuring; runs interleaved, first round discarded, median (min to max)."
        f"{again}"
    )


def for_terminal(document):
    """Return all of it as plain text."""
    parts = []
    for title, head, rows in [
        *tables(document["scenarios"]),
        ("Budgets", BUDGET_HEAD, budget_rows(document["scenarios"])),
    ]:
        widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
        parts.append("\n".join([title, *(f"  {line}".rstrip() for line in lines)]))
    parts.append(circumstances(document))
    return "\n\n".join(parts) + "\n"


def for_readme(document):
    """Return README's last part: what a run gains, the budgets, the circumstances."""
    runs = document["scenarios"]["runs"]["bare"]
    contenders = [name for name in runs["healthy"] if name not in {"none", "atotelemetry_app"}]
    head = ["two events add to a program, ms", *(SERVERS[behaviour] for behaviour in runs)]
    rows = [
        [
            NAMES[name],
            *(
                ("> " if behaviour[name]["capped"] else "") + f"{behaviour[name]['wall_gained']['median'] * 1e3:,.0f}"
                for behaviour in runs.values()
            ),
        ]
        for name in contenders
    ]
    return "\n\n".join(
        [
            _markdown(head, rows),
            _markdown(BUDGET_HEAD, budget_rows(document["scenarios"])),
            f"{circumstances(document)} All figures: `tests/bench/results.json`; measured by `make bench`.",
        ]
    )


def in_words(document):
    """Return README's figures for people who read no table, a line each."""
    results = document["scenarios"]
    runs, inside = results["runs"]["bare"], results["inside"]["at_once"]["atotelemetry"]

    def gained(behaviour, name):
        return f"{runs[behaviour][name]['wall_gained']['median'] * 1e3:,.0f} ms"

    quick, exit_hook = inside["import"]["median"], inside["exit_hook"]["median"]
    lost = next(budget["measured"] for budget in document["budgets"] if budget["budget"].startswith("events lost"))
    lines = (
        "A program with two events takes {} longer than without them, {} when the server hangs.".format(
            gained("healthy", "atotelemetry"), gained("hanging", "atotelemetry")
        ),
        "With PostHog's SDK it takes {} longer, {} when the server hangs.".format(
            gained("healthy", "posthog"), gained("hanging", "posthog")
        ),
        f"`import atotelemetry` takes {quick * 1e3:.1f} ms; half of all exits wait less than {exit_hook * 1e3:.1f} ms.",
        f"The program needs {inside['peak_bytes_gained']['median'] / 2**20:.0f} MiB more memory.",
        f"Events lost while the queue had room: {lost.partition('.')[0]}.",
    )
    return "\n".join(f"- {line}" for line in lines)


def _markdown(head, rows):
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
