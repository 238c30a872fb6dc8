"""`python -m tests.bench`, from the repository's root: measure, print, write.

    python -m tests.bench             everything; rewrites results.json, results.svg and the README's figures
    python -m tests.bench --quick     under a minute; writes only .bench/results.json
    python -m tests.bench --only runs one scenario; writes only .bench/results.json
    python -m tests.bench --main      the main table, as one line of JSON
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
import shutil
import subprocess
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
NEXT = "3.14"
"""The Python that the main table is measured on once more."""


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure against the peers.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--quick", action="store_true", help="under a minute, without touching the README")
    choice.add_argument("--only", metavar="SCENARIO", default="", help="one scenario, without touching the README")
    choice.add_argument("--main", action="store_true", help="the main table, as one line of JSON")
    choice.add_argument("--render", action="store_true", help="write the tables again from the committed results")
    options = parser.parse_args()
    if options.main:
        print(json.dumps(measure(scenarios.MAIN)))
        return
    if options.render:
        document = json.loads(COMMITTED.read_text(encoding="utf-8"))
        document["budgets"] = judged(document["scenarios"])
    else:
        document = measure(scenarios.QUICK if options.quick else scenarios.FULL, options.only)
        if not options.quick and not options.only:
            document["next"] = on_next_python()
    print(report.for_terminal(document))
    if options.quick or options.only:
        SCRATCH.parent.mkdir(exist_ok=True)
        write_json(SCRATCH, document)
        print(f"Written: {SCRATCH.relative_to(ROOT)}. Few rounds or one scenario: the README keeps its figures.")
        return
    write_json(COMMITTED, document)
    document = json.loads(COMMITTED.read_text(encoding="utf-8"))  # rounded: README is to say the same
    PICTURE.write_text(plot.picture(document["scenarios"]), encoding="utf-8")
    print(f"Written: {COMMITTED.relative_to(ROOT)}, {PICTURE.relative_to(ROOT)}")
    print(rewrite_readme("numbers", report.in_words(document)))
    print(rewrite_readme("bench", report.for_readme(document)))


def measure(kind, only=""):
    """Measure everything, the main table or a little, or `only` one scenario; return the document written as JSON.

    It holds no path and no name of the machine.
    """
    started = time.monotonic()
    load_at_start = os.getloadavg()[0]

    def say(what):
        print(f"[{time.monotonic() - started:5.0f} s] {what}", file=sys.stderr, flush=True)

    with Laboratory() as laboratory, Servers(laboratory) as servers:
        measured, others = scenarios.measure(kind, laboratory, servers, say, only)
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
        "others": others,
        "scenarios": measured,
        "budgets": judged(measured),
    }


def on_next_python():
    """Return the main table's document of another Python, or a sentence that says why there is none.

    Where it is not installed, `tests/tools/next_python.py` makes a root of Debian's, which needs root on such a system.
    """
    command = ["make", "--silent", "bench-main"]
    environment = {**os.environ, "PYTHON": NEXT}
    finder = shutil.which("uv") or str(ROOT / ".uv/bin/uv")
    found = subprocess.run([finder, "python", "find", NEXT], cwd=ROOT, capture_output=True, check=False)
    if found.returncode:
        command = ["python3", "tests/tools/next_python.py", NEXT, "--", *command]
    # The progress of the bench in there goes to our stderr; a reason not to run is its last line.
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return f"The main table on Python {NEXT} is missing, because it cannot be had here: {reason}"


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
