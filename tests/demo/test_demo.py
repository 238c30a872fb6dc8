"""The whole demo, as `make demo` runs it, and its judgement."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import types
from email.message import Message
from pathlib import Path

import pytest
from tests.demo.verdict import EVENTS, Scene, problems, sender_problems, untried

from atotelemetry.testing import Answer, RecordedRequest
from support_processes import MARK, PATIENCE, describe, marked, new_mark, wait_for_end, wait_for_senders

# The senders of a server that hangs give up after eleven seconds.
pytestmark = [pytest.mark.timeout(150), pytest.mark.posix("signals kill and crash the demo's CLI")]

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

TITLES = (
    "healthy",
    "hangs (never answers)",
    "down (nobody listens)",
    "healthy, but CLI killed",
    "healthy, but CLI crashes",
)
ROOT = Path(__file__).resolve().parents[2]

# Two rounds are enough here.
PROGRAM = """
import sys
from tests.demo import __main__ as demo
demo.ROUNDS = 2
{patch}
sys.exit(demo.main())
"""
# Every server refuses whatever comes.
REFUSING = """
from atotelemetry.testing import Answer
demo.PATIENCE = 2.0
demo.Answer = lambda **_: Answer(status=400)
"""


class World:
    """A demo with a temporary directory and a home of its own, whose owner opted out of everything."""

    def __init__(self, directory: Path, patch: str = "", **variables: str) -> None:
        self.mark = new_mark()
        self.temporary = directory / "tmp"
        self.home = directory / "home"
        self.temporary.mkdir(parents=True)
        for app in ("atopile", "example"):
            (self.home / app).mkdir(parents=True)
            (self.home / app / "telemetry.yaml").write_text("telemetry: false\n")
        self.program = PROGRAM.format(patch=patch)
        self.environment = {
            **os.environ,
            "TMPDIR": str(self.temporary),
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home),
            "PYTHONIOENCODING": "utf-8",
            MARK: self.mark,
            **variables,
        }
        for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
            if name not in variables:
                self.environment.pop(name, None)

    def start(self, **streams: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", self.program]
        return subprocess.Popen(command, env=self.environment, encoding="utf-8", cwd=ROOT, **streams)

    def run(self) -> tuple[int, str, str]:
        """Run the demo in a pipe; return its exit status, stdout and stderr."""
        with self.start(stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                output, errors = process.communicate(timeout=100)
            finally:
                process.kill()
        self.assert_nothing_is_left()
        return process.returncode, output, errors

    def assert_nothing_is_left(self) -> None:
        assert [describe(pid) for pid, _ in marked(self.mark)] == []
        assert list(self.temporary.iterdir()) == []
        files = sorted(path for path in self.home.rglob("*") if path.is_file())
        assert [path.parent.name for path in files] == ["atopile", "example"]
        assert {path.read_text() for path in files} == {"telemetry: false\n"}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Run a demo in an environment that says no to telemetry, has a dead proxy and claims to be CI."""
    hostile = {"DO_NOT_TRACK": "1", "ATO_TELEMETRY": "off", "EXAMPLE_TELEMETRY": "off", "CI": "true"}
    proxies = {"http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}
    code, output, errors = World(tmp_path_factory.mktemp("demo"), **hostile, **proxies).run()
    assert (code, errors) == (0, ""), output
    return output


def test_everything_is_right(output):
    """The demo ends with 0, leaves no process and no file, and warns of nothing."""
    assert "Not as it should be" not in output
    assert "no process left: all 8 senders have ended" in output
    assert output.count("✓") == 4


def test_table(output):
    """Each server has a row: wall time, cost, both with their spread, and how many of the events arrived."""
    number = r"-?\d+"
    spread = rf"[+]?{number} ms \([+]?{number} to [+]?{number}\)"
    rows = [
        re.fullmatch(rf" (\S.*\S)  +(?:{spread}  +{spread}|\d+ ms  +-)  +(\d+) / (\d+)  ok *", line)
        for line in output.splitlines()
    ]
    assert [row.groups() for row in rows if row] == list(
        zip(TITLES, ("8", "0", "0", "4", "5"), ("8", "8", "8", "4", "5"), strict=True)
    )
    assert re.search(rf"^ none \(telemetry off\)  +{spread} *$", output, re.MULTILINE)


def test_events(output):
    """The events of an ordinary run and of those that died come in order, what they share only once."""
    _, *parts = re.split(r"\nWhat arrived of .*\n", output)
    assert len(parts) == 3
    for part in parts:
        assert tuple(re.findall(r"^    (\w+:\w+) +\d{4}-\d\d-\d\dT[\d:.]+Z$", part, re.MULTILINE)) == EVENTS
        assert re.search(
            r"^  POST /\w+/ with \d events, \d+ ms (?:after|before) the end of the CLI$", part, re.MULTILINE
        )
        assert part.count('      board: "blinky"\n') == 2
    assert output.count("run_id=") == 3
    assert output.count("distinct_id=") == output.count("$lib=") == 1


def test_the_crash_is_reported(output):
    """Its type, and the stack down to the C function that crashed."""
    report = output.partition("What arrived of the run that crashed")[2]
    assert '      $exception_type: "SIGSEGV"\n' in report
    assert re.search(r"\$exception_stack_trace:\s+Fatal Python error: Segmentation fault", report)
    assert re.search(r"in string_at\s+File .*\s+in crash", report)


def test_handed_over_is_explained(output):
    """It says what the killed CLI's last event has to have reached."""
    assert "Handed over means: the event is in the pipe" in " ".join(output.split())


def test_plain_in_a_pipe(output):
    """In a pipe there is no colour and no line that is written over, and no line is too wide for a terminal."""
    assert "\x1b" not in output
    assert "\r" not in output
    assert max(map(len, output.splitlines())) <= 100


def test_events_that_do_not_arrive(tmp_path):
    """It names the scenario of events that a server refused, ends with 1, and keeps to ASCII where it must."""
    code, output, errors = World(tmp_path, REFUSING, PYTHONIOENCODING="ascii").run()
    assert (code, errors) == (1, "")
    assert re.search(r"^ healthy .* 0 / 8  not ok *$", output, re.MULTILINE)
    assert re.search(r"^ healthy, but CLI killed .* 0 / 4  not ok *$", output, re.MULTILINE)
    assert "Not as it should be:\n" in output
    assert re.search(r"^ x healthy: 0 of 8 events arrived *$", output, re.MULTILINE)
    assert output.isascii()
    assert "\\u" not in output


@on_linux
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ended_in_the_middle(tmp_path, how, code):
    """Ctrl-C and SIGTERM end the demo quietly: no traceback, no file, and soon no sender."""
    world = World(tmp_path)
    with world.start(stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            wait_for_senders(mark=world.mark)
            process.send_signal(how)
            _, errors = process.communicate(timeout=40)
        finally:
            process.kill()
    assert (process.returncode, errors) == (code, "")
    for pid, _ in marked(world.mark):
        assert wait_for_end(pid, PATIENCE), describe(pid)
    world.assert_nothing_is_left()


# ---- the judgement


def request(*events, status=200):
    return RecordedRequest(
        method="POST",
        path="/batch/",
        headers=Message(),
        body=b"",
        wire_bytes=0,
        received_at=0.0,
        connection=0,
        events=list(events),
        status=status,
    )


def event(name, run, number):
    return {"event": name, "uuid": f"{run}-{number}", "properties": {"run_id": run}}


def run_of(run):
    return [event(name, run, number) for number, name in enumerate(EVENTS)]


def server(*requests):
    return types.SimpleNamespace(requests=requests)


def healthy(**changes):
    good = Scene(
        title="healthy",
        answer=Answer(),
        server=server(request(*run_of("a")), request(*run_of("b"))),
        wall=[0.15, 0.2],
    )
    return dataclasses.replace(good, **changes)


def hanging(**changes):
    refused = server(request(*run_of("a"), status=None), request(*run_of("b"), status=None))
    return healthy(**{"answer": Answer(hang=True), "server": refused, **changes})


def judged(scene, wall_off=(0.1, 0.1)):
    return problems(scene, list(wall_off))


def test_nothing_to_complain_about():
    """Everything delivered is no problem, nor is nothing where nobody answers or listens."""
    assert judged(healthy()) == []
    assert judged(hanging()) + untried(hanging()) == []
    assert judged(hanging(server=None)) == []


def test_events_that_were_never_sent_are_counted():
    """A server that hangs was asked to take every event at least once."""
    (problem,) = untried(hanging(server=server(request(*run_of("a"), status=None))))
    assert problem == "only 4 of 8 events came as far as the server"


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (healthy(server=server(request(*run_of("a")))), "4 of 8 events arrived"),
        (healthy(server=server(request(*run_of("a")), request(*run_of("b"), status=503))), "4 of 8 events arrived"),
        (healthy(server=server(request(*run_of("a")), request(*run_of("b"))), oddities=["odd"]), "odd"),
        (healthy(server=server(request(*run_of("a")), request(*reversed(run_of("b"))))), "not in that order"),
        (healthy(wall=[1.3, 1.4]), "slower than it ever may"),
        (hanging(server=server(request(*run_of("a")), request(*run_of("b")))), "nobody accepts any"),
        (hanging(wall=[5.1, 5.1]), "slower than it ever may"),
    ],
)
def test_what_is_wrong_is_named(result, said):
    """Whatever is not as it should be is named, and nothing else is."""
    (problem,) = judged(result)
    assert said in problem


def test_what_came_twice_is_named():
    """An event that a retry delivered a second time is a problem even though none is missing."""
    assert "an event arrived more than once" in judged(
        healthy(server=server(request(*run_of("a")), request(*run_of("b")), request(*run_of("b"))))
    )


def test_one_slow_run_is_no_problem():
    """Noise is no failure: the median counts, and on a machine where everything takes long, telemetry may, too."""
    three = server(*(request(*run_of(run)) for run in "abc"))
    assert judged(healthy(wall=[0.1, 0.1, 9.0], server=three)) == []
    assert judged(healthy(wall=[2.5, 2.5]), [1.0, 1.0]) == []


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ({"started": 2, "ended": 2, "alive": 0}, []),
        ({"started": 1, "ended": 1, "alive": 0}, ["1 senders worked for 2 runs"]),
        ({"started": 3, "ended": 3, "alive": 0}, ["3 senders worked for 2 runs"]),
        ({"started": 2, "ended": 1, "alive": 0}, ["1 senders did not come to their own end"]),
        ({"started": 2, "ended": 2, "alive": 1}, ["1 senders are still there"]),
    ],
)
def test_senders(seen, said):
    """Each run has one sender, which comes to its own end and is gone."""
    assert sender_problems(expected=2, **seen) == said
