"""`python -m tests.bench`, from the repository's root: measure, print, write.

    python -m tests.bench             everything; rewrites results.json, results.svg and the README's figures
    python -m tests.bench --quick     under a minute; writes only .bench/results.json
    python -m tests.bench --render    no measuring: tables, picture and README again from the committed results.json

Exit status 0 also where a budget is not met: the report says so, and a noisy machine fails nobody's build.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time

from . import plot, report, scenarios
from .measure import Laboratory, Servers

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
COMMITTED = HERE / "results.json"
PICTURE = HERE / "results.svg"
SCRATCH = ROOT / ".bench" / "results.json"
README = ROOT / "README.md"


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure against the peers.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--quick", action="store_true", help="under a minute, without touching the README")
    choice.add_argument("--again", metavar="SCENARIO", help="one scenario, put in the place of the committed one")
    choice.add_argument("--render", action="store_true", help="write the tables again from the committed results")
    options = parser.parse_args()
    if options.render:
        document = json.loads(COMMITTED.read_text(encoding="utf-8"))
    elif options.again:
        document = json.loads(COMMITTED.read_text(encoding="utf-8"))
        again = measure(scenarios.FULL, options.again)
        document["scenarios"] |= again["scenarios"]
        document["again"] = {**document.get("again", {}), options.again: again["load"]}
        document["budgets"] = judged(document["scenarios"])
    else:
        document = measure(scenarios.QUICK if options.quick else scenarios.FULL)
        SCRATCH.parent.mkdir(exist_ok=True)
        write_json(SCRATCH, document)
    print(report.for_terminal(document))
    if options.quick:
        print(
            f"Written: {SCRATCH.relative_to(ROOT)}. A quick run: one or two rounds each, so noise is not averaged out."
        )
        return
    write_json(COMMITTED, document)
    PICTURE.write_text(plot.picture(document["scenarios"]), encoding="utf-8")
    print(f"Written: {COMMITTED.relative_to(ROOT)}, {PICTURE.relative_to(ROOT)}")
    print(rewrite_readme("numbers", report.in_words(document)))
    print(rewrite_readme("bench", report.for_readme(document)))


def measure(plan, only=""):
    """Measure everything, or `only` one scenario; return the document that is written as JSON.

    It holds no path and no name of the machine.
    """
    started = time.monotonic()
    load_at_start = os.getloadavg()[0]

    def say(what):
        print(f"[{time.monotonic() - started:5.0f} s] {what}", file=sys.stderr, flush=True)

    with Laboratory() as laboratory, Servers(laboratory) as servers:
        measured = scenarios.measure(plan, laboratory, servers, say, only)
    return {
        "made": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seconds": time.monotonic() - started,
        "machine": {
            "implementation": platform.python_implementation(),
            "python": platform.python_version(),
            "system": platform.system(),
            "kernel": platform.release(),
            "cpus": os.cpu_count(),
        },
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("atotelemetry", "posthog", "sentry-sdk", "typer", "msgspec", "httpx")
        },
        "load": {"start": load_at_start, "end": os.getloadavg()[0]},
        "scenarios": measured,
        "budgets": [] if only else judged(measured),
    }


def judged(measured):
    """Return the budget lines as dictionaries."""
    return [
        dict(zip(("budget", "allowed", "measured", "used", "verdict"), row, strict=True))
        for row in report.budget_rows(measured)
    ]


def write_json(path, document):
    def rounded(value):
        """Five significant digits: more would pretend."""
        if isinstance(value, dict):
            return {key: rounded(each) for key, each in value.items()}
        if isinstance(value, list):
            return [rounded(each) for each in value]
        return float(f"{value:.5g}") if isinstance(value, float) else value

    path.write_text(json.dumps(rounded(document), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def rewrite_readme(part, text):
    """Put `text` between README's markers of this part; say what was done."""
    begin, end = f"<!-- {part}:begin -->", f"<!-- {part}:end -->"
    readme = README.read_text(encoding="utf-8")
    before, found, rest = readme.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        return f"README.md has no {begin} … {end}: these figures were not written."
    README.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
    return f"Written: README.md, {part}"


if __name__ == "__main__":
    main()
