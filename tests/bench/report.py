"""The results as tables: for the terminal as plain text, for the README as Markdown. Pure: results in, text out."""

from __future__ import annotations

from typing import NamedTuple

from .budgets import judge
from .summary import ratio

__all__ = ["NAMES", "for_readme", "for_terminal", "in_words"]

NAMES = {
    "none": "no telemetry",
    "floor": "floor: one event into a pipe",
    "lean_floor": "lean floor: of msgspec only the core",
    "sender_floor": "floor: httpx and msgspec imported, one POST",
    "floors": "both floors",
    "atotelemetry": "atotelemetry",
    "atotelemetry_app": "atotelemetry, application layer",
    "in_process": "a thread, a POST an event",
    "posthog": "posthog",
    "posthog_atopile": "posthog, two threads, no batches",
    "posthog_batching": "posthog, batches of 1000",
    "sentry": "sentry-sdk",
    "msgspec": "msgspec",
    "msgspec_light": "msgspec, as it is imported here",
    "httpx": "httpx",
    "pipeline": "20,000 events",
    "0": "a small program",
    "1024": "a program of 1 GiB",
}
SECTIONS = {
    "healthy": "healthy (100 ms)",
    "unavailable": "answering 503",
    "breaker_open": "none, known to be dead",
    "loaded": "typer, msgspec's imports loaded",
    "error": "an exception reported",
    "forking": "50 forks",
    "bare": "a bare interpreter",
    "typed": "typing, re, enum, datetime loaded",
    "at once": "leaves at once",
    "work": "50 ms of work between the events",
    "3": "three scalars",
    "10": "ten scalars",
    "list": "nine scalars, a short list",
    "100 dicts": "a list of 100 dicts",
    "1000 dicts": "a list of 1,000 dicts",
    "exception": "an exception, with its source",
    "fast 1000": "1,000 events, 0 ms",
    "fast 20000": "20,000 events, 0 ms",
    "fast 100000": "100,000 events, 0 ms",
    "healthy 20000": "20,000 events, 100 ms",
    "8": "8 programs",
    "64": "64 programs",
}
MILLISECONDS, MICROSECONDS, SECONDS, MEBIBYTES = 1e3, 1e6, 1.0, 2**-20


class Column(NamedTuple):
    """A figure of a table: its heading, its name in the results, in which unit and with how many digits."""

    heading: str
    figure: str
    unit: float = 1.0
    digits: int = 0


_SPENT = (
    Column("wall time, ms", "wall_gained", MILLISECONDS, 1),
    Column("CPU time, ms", "cpu_gained", MILLISECONDS, 1),
)
_COMPARED = {"floor": "times the floor", "posthog": "times posthog's"}
# Of each scenario: its title, its figures, and with whom the first of them is compared.
TABLES = {
    "runs": (
        "What two events add to a program, by the server's behaviour",
        (
            *_SPENT,
            Column("CPU of all processes, ms", "total_cpu_gained", MILLISECONDS, 1),
            Column("cut short", "capped"),
        ),
        _COMPARED,
    ),
    "programs": (
        "What two events add to other programs, server healthy (100 ms)",
        (*_SPENT, Column("CPU of all processes, ms", "total_cpu_gained", MILLISECONDS, 1)),
        _COMPARED,
    ),
    "servers": ("What two events add, in turn, whatever the server does", _SPENT, {}),
    "life": (
        "A sender's whole life, by the server's behaviour",
        (
            Column("gone after, s", "life", SECONDS, 2),
            Column("CPU of program and sender, ms", "total_cpu", MILLISECONDS),
        ),
        {},
    ),
    "sender": (
        "A sender alone with two events",
        (
            Column("CPU time, ms", "cpu", MILLISECONDS, 1),
            Column("from the spawn to `ready`, ms", "ready", MILLISECONDS, 1),
            Column("peak memory, MiB", "peak_bytes", MEBIBYTES, 1),
        ),
        {"sender_floor": "times the floor"},
    ),
    "import": ("Imports alone", _SPENT, {}),
    "inside": (
        "Inside the program",
        (
            *(
                Column(f"{figure.replace('_', ' ')}, ms", figure, MILLISECONDS, 2)
                for figure in ("import", "setup", "first_capture", "exit_hook")
            ),
            Column("peak memory, MiB", "peak_bytes_gained", MEBIBYTES, 2),
        ),
        {},
    ),
    "steady": (
        "capture() in the long run",
        (
            Column("median, µs", "median", MICROSECONDS, 2),
            Column("p99, µs", "p99", MICROSECONDS, 1),
            Column("msgspec alone, µs", "bare", MICROSECONDS, 2),
            Column("dropped", "dropped"),
        ),
        {"posthog": "times posthog's"},
    ),
    "stream": (
        "End to end: first capture to last accepted answer",
        (
            Column("events per second", "events_per_second"),
            Column("capturing, s", "capturing", SECONDS, 3),
            Column("requests", "requests"),
            Column("lost", "lost"),
            Column("doubled", "doubled"),
        ),
        {"posthog": "times posthog's"},
    ),
    "limits": (
        "What nobody can leave out on the way, bare libraries, ms of CPU",
        tuple(
            Column(figure.replace("_", " "), figure, MILLISECONDS, 1)
            for figure in ("encoding", "pipe", "decoding", "encoding_again", "gzip", "loopback", "all")
        ),
        {},
    ),
    "spawn": (
        "How long a program waits for the start of another one, ms",
        (Column("posix_spawn", "posix_spawn", MILLISECONDS, 3), Column("fork and exec", "fork", MILLISECONDS, 3)),
        {},
    ),
    "at once": (
        "Many programs started together, server healthy (100 ms)",
        (
            Column("until all ended, s", "wall", SECONDS, 2),
            Column("last event in after, s", "all_in", SECONDS, 2),
            Column("missing", "missing"),
        ),
        {},
    ),
    "dead network": (
        "A network that swallows packets: 120 runs (of the others 40), eight a second",
        (
            Column("processes at the peak", "processes"),
            Column("memory at the peak, MiB", "bytes", MEBIBYTES),
            Column("the last one stays, s", "stayed", SECONDS, 1),
        ),
        {},
    ),
}


class Pivot(NamedTuple):
    """One of README's own tables: one figure of a scenario, a row for each contender, a column for each section."""

    title: str
    scenario: str
    figure: str
    unit: float = 1.0
    digits: int = 0
    sections: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


MAIN = Pivot("two events add to a program, ms", "runs", "wall_gained", MILLISECONDS, without=("floors",))
README_TABLES = (
    MAIN,
    Pivot("two events add to other programs, ms", "programs", "wall_gained", MILLISECONDS),
    Pivot("CPU of program and sender, ms", "runs", "total_cpu_gained", MILLISECONDS, 0, ("healthy",), ("floor",)),
    Pivot("one `capture()`, µs", "steady", "median", MICROSECONDS, 1),
    Pivot("events per second", "stream", "events_per_second"),
)


def _named(key):
    return NAMES.get(key) or SECTIONS.get(key, key)


def _spread(summary, unit, digits):
    """Return "median (min to max)"."""
    if not summary:
        return "-"
    low, middle, high = (f"{summary[key] * unit:,.{digits}f}" for key in ("min", "median", "max"))
    return middle if low == high else f"{middle} ({low} to {high})"


def times(value):
    """Return a ratio as text, short but not misleading."""
    if value is None:
        return "-"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:,.0f}"


def _median(results, *path):
    for key in path:
        results = results.get(key) or {}
    return results.get("median")


def tables(results):
    """Yield each table as its title, its head and its rows."""
    for scenario, (title, columns, compared) in TABLES.items():
        sections, first = results.get(scenario, {}), columns[0].figure
        rows = [
            [
                SECTIONS.get(section, section),
                _named(name),
                *(_spread(figures.get(column.figure), column.unit, column.digits) for column in columns),
                *(
                    "-" if name == "none" else times(ratio(*(_median(contenders, who, first) for who in (name, peer))))
                    for peer in compared
                ),
                str(figures[first]["n"]),
            ]
            for section, contenders in sections.items()
            for name, figures in contenders.items()
            if figures
        ]
        if rows:
            yield title, ["", "", *(column.heading for column in columns), *compared.values(), "runs"], rows


BUDGET_HEAD = ["budget", "allowed", "measured", "used of it", ""]


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


def circumstances(document):
    """Return one paragraph about machine, versions and noise."""
    machine, load, others = document["machine"], document["load"], document.get("others") or {}
    peers = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    worst = max(others, key=others.get, default=None)
    noise = "How much of the machine others used is not known."
    if worst:
        noise = f"Other processes used at most {others[worst]:.2f} of {machine['cpus']} CPUs (during {worst})."
    return (
        f"{machine['implementation']} {machine['python']} on {machine['system']} {machine['kernel']}, "
        f"{machine['cpus']} CPUs; {peers}. Load average before: {load['start']:.2f}. {noise} Measured in "
        f"{document['seconds']:.0f} s; runs in turn, median (min to max)."
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
    if "next" in document:
        parts.append(_next(document, for_terminal))
    return "\n\n".join(parts) + "\n"


def _next(document, render):
    """Return the part about another Python: its tables, or why there are none."""
    return document["next"] if isinstance(document["next"], str) else render(document["next"])


def for_readme(document):
    """Return README's last part: tables, budgets, findings, the circumstances, and the main table once more."""
    results = document["scenarios"]
    findings = "\n".join(f"- {finding}" for finding in _findings(results))
    parts = [*_pivots(results, README_TABLES), _markdown(BUDGET_HEAD, budget_rows(results)), findings]
    parts.append(circumstances(document))
    if "next" in document:
        parts.append(_next(document, _on_another_python))
    parts.append("All figures: `tests/bench/results.json`; measured by `make bench`.")
    return "\n\n".join(filter(None, parts))


def _on_another_python(document):
    return "\n\n".join([*_pivots(document["scenarios"], [MAIN]), circumstances(document)])


def _pivots(results, wanted):
    for pivot in wanted:
        sections = {
            section: seen
            for section, seen in results.get(pivot.scenario, {}).items()
            if section in pivot.sections or not pivot.sections
        }
        names = dict.fromkeys(
            name
            for contenders in sections.values()
            for name, figures in contenders.items()
            if pivot.figure in figures and name not in {"none", *pivot.without}
        )
        rows = [
            [_named(name), *(_cell(contenders.get(name) or {}, pivot) for contenders in sections.values())]
            for name in names
        ]
        if rows:
            yield _markdown([pivot.title, *map(_named, sections)], rows)


def _cell(figures, pivot):
    if pivot.figure not in figures:
        return "-"
    cut_short = (_median(figures, "capped") or 0) > 0
    return f"{'> ' if cut_short else ''}{figures[pivot.figure]['median'] * pivot.unit:,.{pivot.digits}f}"


def _findings(results):
    """Yield sentences about the figures that no table of README's has; none about what was not measured."""

    def figure(*path, unit=1.0, digits=0):
        value = _median(results, *path)
        return None if value is None else f"{value * unit:,.{digits}f}"

    def sentence(text, *figures):
        if None not in figures:
            yield text.format(*figures)

    ours = "atotelemetry"
    yield from sentence(
        "A sender reads its input {} ms after it was spawned.", figure("sender", "", ours, "ready", unit=MILLISECONDS)
    )
    yield from sentence(
        "While a network is known to be dead no sender starts; two events then add {} ms.",
        figure("servers", "", "breaker_open", "wall_gained", unit=MILLISECONDS),
    )
    for name in (ours, "in_process", "posthog"):
        yield from sentence(
            f"{'120' if name == ours else '40'} runs with {_named(name)}, eight a second, against a network that "
            "swallows packets: at most {} processes and {} MiB at a time.",
            figure("dead network", "", name, "processes"),
            figure("dead network", "", name, "bytes", unit=MEBIBYTES),
        )
    for section, label in (
        ("bare", "A bare interpreter"),
        ("typed", "One that has typing, re, enum and datetime loaded"),
    ):
        yield from sentence(
            f"{label} imports msgspec in {{}} ms, and as it is done here in {{}}.",
            figure("import", section, "msgspec", "wall_gained", unit=MILLISECONDS, digits=1),
            figure("import", section, "msgspec_light", "wall_gained", unit=MILLISECONDS, digits=1),
        )
    yield from sentence(
        "Starting a process keeps a program of 1 GiB for {} ms with `posix_spawn`, as it is done here, and {} ms with "
        "`fork`.",
        *(figure("spawn", "", "1024", how, unit=MILLISECONDS, digits=2) for how in ("posix_spawn", "fork")),
    )
    rates = [_median(results, "stream", f"fast {count}", ours, "events_per_second") for count in (20_000, 100_000)]
    if None not in rates:
        few, many = 20_000 / rates[0], 100_000 / rates[1]
        yield from sentence(
            f"Why not more events per second: 20,000 take {few * 1e3:.0f} ms, and each further one "
            f"{(many - few) / 80_000 * 1e6:.1f} µs. With the bare libraries encoding, pipe, decoding, encoding again, "
            "gzip and loopback cost {} ms; the rest is a sender's start and the care for each event.",
            figure("limits", "", "pipeline", "all", unit=MILLISECONDS),
        )


def in_words(document):
    """Return README's figures for people who read no table, a line each."""
    runs, inside = document["scenarios"]["runs"], document["scenarios"]["inside"]["at once"]["atotelemetry"]

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
