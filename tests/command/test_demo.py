from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from email.message import Message
from pathlib import Path

import pytest

from atotelemetry.command.demo import EVENTS, Result, problems, sender_problems
from atotelemetry.testing import RecordedRequest

# Two whole demos, at the same time, take about twenty seconds.
pytestmark = pytest.mark.timeout(150)

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
on_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal and signals")

TITLES = ("healthy", "hangs (never answers)", "down (nobody listens)", "healthy, but CLI killed")
TOKEN = "ATOTELEMETRY_TEST_TOKEN"  # inherited by the demo's CLIs and by their senders

# A suite in the background of a shell hands an ignored SIGINT on to its children.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from atotelemetry.__main__ import main
sys.exit(main(["demo"]))
"""


class World:
    """A temporary directory, a home directory whose owner opted out of everything, and an environment with both."""

    def __init__(self, directory: Path, **variables: str) -> None:
        self.token = f"{directory}-{time.monotonic_ns()}"
        self.temporary = directory / "tmp"
        self.home = directory / "home"
        self.temporary.mkdir(parents=True)
        for app in ("atopile", "example"):
            (self.home / app).mkdir(parents=True)
            (self.home / app / "telemetry.yaml").write_text("telemetry: false\n")
        kept = {
            name: value
            for name, value in os.environ.items()
            if name not in {"NO_COLOR", "PYTHONUNBUFFERED", "COLUMNS", "LINES"}
        }
        self.environment = {
            **kept,
            "TMPDIR": str(self.temporary),
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home),
            "PYTHONIOENCODING": "utf-8",
            TOKEN: self.token,
            **variables,
        }

    def start(self, program: str = PROGRAM, **options: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", "-c", program],
            env=self.environment,
            encoding="utf-8",
            **options,
        )

    def processes(self, *, senders: bool = False) -> list[str]:
        """Return the command line of every process that inherited this world's environment."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                # What ended, or ends at this moment, has no environment to read.
                with contextlib.suppress(OSError):
                    environment = (entry / "environ").read_bytes()
                    marked = not senders or b"\0ATO_TELEMETRY_SENDER=1\0" in environment
                    if f"{TOKEN}={self.token}".encode() in environment and marked:
                        found.append((entry / "cmdline").read_text())
        return found

    def wait_for(self, condition, timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, self.processes()
            time.sleep(0.01)

    def assert_nothing_is_left(self) -> None:
        if sys.platform == "linux":
            assert self.processes() == []
        assert list(self.temporary.iterdir()) == []
        files = sorted(path for path in self.home.rglob("*") if path.is_file())
        assert [path.parent.name for path in files] == ["atopile", "example"]
        assert {path.read_text() for path in files} == {"telemetry: false\n"}


class Ended:
    """What a whole demo gave."""

    def __init__(self, world: World, code: int, output: str, errors: str) -> None:
        self.world = world
        self.code = code
        self.output = output
        self.errors = errors


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    """One demo in a pipe, in a hostile environment, and, where there are pseudo-terminals, another one on one."""
    directory = tmp_path_factory.mktemp("demos")
    hostile = {
        "DO_NOT_TRACK": "1",
        "ATO_TELEMETRY": "off",
        "EXAMPLE_TELEMETRY": "off",
        "http_proxy": "http://127.0.0.1:9",
        "ALL_PROXY": "http://127.0.0.1:9",
    }
    world = World(directory / "pipe", **hostile)
    on_screen = None
    with world.start(stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            if sys.platform != "win32":
                on_screen = run_on_terminal(World(directory / "terminal", TERM="xterm"))
            output, errors = process.communicate(timeout=100)
        finally:
            process.kill()
    # Looked at before anything else has time to end.
    world.assert_nothing_is_left()
    return Ended(world, process.returncode, output, errors), on_screen


def run_on_terminal(world: World, program: str = PROGRAM) -> Ended:
    import pty

    terminal, theirs = pty.openpty()
    with (
        world.start(program, stdout=theirs, stderr=theirs, stdin=theirs) as process,
        open(terminal, "rb", buffering=0) as screen,
    ):
        try:
            os.close(theirs)
            shown = b""
            with contextlib.suppress(OSError):  # how Linux says that the other side has closed
                while data := screen.read(4096):
                    shown += data
            process.wait(20)
        finally:
            process.kill()
    world.assert_nothing_is_left()
    return Ended(world, process.returncode, shown.decode(), "")


@pytest.fixture
def in_pipe(demos):
    return demos[0]


@pytest.fixture
def on_screen(demos):
    return demos[1]


def test_everything_is_as_it_should_be(in_pipe):
    """The demo ends with 0, whatever the environment says about telemetry and proxies, and warns of nothing."""
    assert (in_pipe.code, in_pipe.errors) == (0, ""), in_pipe.output
    assert "Not as it should be" not in in_pipe.output
    assert "no process left: all 16 senders have ended" in in_pipe.output
    assert in_pipe.output.count("✓") == 4


def test_table(in_pipe):
    """Each scenario has a row: wall time with telemetry and without, and how many of its events arrived."""
    rows = [
        re.fullmatch(r"  (\S.*\S)  +(\d+) ms  +(?:(\d+) ms  +([+-]\d+) ms|-  +-)  +(\d+) / (\d+)  ok", line)
        for line in in_pipe.output.splitlines()
    ]
    rows = [row for row in rows if row]
    assert tuple(row[1] for row in rows) == TITLES
    assert [(row[5], row[6]) for row in rows] == [("20", "20"), ("0", "20"), ("0", "20"), ("4", "4")]
    assert [row[3] is not None for row in rows] == [True, True, True, False]


def test_events(in_pipe):
    """The events of an ordinary run and of the killed one are printed in order, what they say alike only once."""
    _, ordinary, killed = re.split(r"\nWhat arrived of .*\n", in_pipe.output)
    for part in (ordinary, killed):
        assert tuple(re.findall(r"^    (\w+:\w+) +\d{4}-\d\d-\d\dT[\d:.]+Z$", part, re.MULTILINE)) == EVENTS
        assert re.search(r"^  POST /batch/ with 4 events, \d+ ms after the end of the CLI$", part, re.MULTILINE)
        assert part.count('      board: "blinky"\n') == 2
    assert in_pipe.output.count("run_id=") == 2
    assert in_pipe.output.count("distinct_id=") == in_pipe.output.count("$lib=") == 1


def test_plain_in_a_pipe(in_pipe):
    """In a pipe there is no colour and no line that is written over, and no line is too wide for a terminal."""
    assert "\x1b" not in in_pipe.output
    assert "\r" not in in_pipe.output
    assert max(map(len, in_pipe.output.splitlines())) <= 100


@on_posix
def test_colour_on_a_terminal(on_screen):
    """On a terminal there are colours, and a line of progress that is gone in the end."""
    assert on_screen.code == 0, on_screen.output
    assert "\x1b[32mok\x1b[0m" in on_screen.output
    assert "\x1b[36mcli:start" in on_screen.output
    assert "\rrun 1 of 5: healthy ..." in on_screen.output
    assert "waiting for the senders" in on_screen.output
    last_words = on_screen.output.rpartition("waiting for the senders")[2]
    assert re.match(r"[^\r\n]*\r +\r", last_words)
    # What is left when each line shows only what was written last.
    assert not re.search(r"\r *[^\r\n ][^\r\n]*\r\n", on_screen.output.replace("\r\n", "\n"))


# One run a scenario, and servers that refuse whatever comes.
REFUSING = """
import sys
from atotelemetry.command import demo
from atotelemetry.__main__ import main
demo.RUNS = 1
demo._PATIENCE = 2.0
usual = demo._Demo._server
demo._Demo._server = lambda self, **answer: usual(self, status=400)
sys.exit(main(["demo"]))
"""


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """Two demos whose servers refuse everything: in a pipe that takes only ASCII, and on a terminal with NO_COLOR."""
    directory = tmp_path_factory.mktemp("refused")
    world = World(directory / "pipe", PYTHONIOENCODING="ascii")
    on_screen = None
    with world.start(REFUSING, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            if sys.platform != "win32":
                terminal = World(directory / "terminal", TERM="xterm", NO_COLOR="1")
                on_screen = run_on_terminal(terminal, REFUSING)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    world.assert_nothing_is_left()
    return Ended(world, process.returncode, output, errors), on_screen


def test_events_that_do_not_arrive(refused):
    """When a server refuses what it is sent, the demo says in which scenario, and ends with 1."""
    ended = refused[0]
    assert (ended.code, ended.errors) == (1, "")
    assert re.search(r"^  healthy .* 0 / 4  not ok$", ended.output, re.MULTILINE)
    assert re.search(r"^  healthy, but CLI killed .* 0 / 4  not ok$", ended.output, re.MULTILINE)
    assert "Not as it should be:\n" in ended.output
    assert " healthy: 0 of 4 events arrived\n" in ended.output
    assert "  + " not in ended.output


def test_letters_that_the_output_has(refused):
    """An output that takes only ASCII gets nothing else, and no escapes for what it does not take."""
    output = refused[0].output
    assert output.isascii()
    assert "\\u" not in output
    assert "  x healthy: 0 of 4 events arrived\n" in output


@on_posix
def test_no_colour_when_nobody_wants_it(refused):
    """NO_COLOR takes the colour off a terminal, not the progress."""
    shown = refused[1].output
    assert "\x1b" not in shown
    assert "\rrun 1 of 1: " in shown


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@on_linux
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ended_in_the_middle(world, how, code):
    """Ctrl-C and SIGTERM end the demo quietly: no traceback, no file, and soon no sender."""
    with world.start(stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            world.wait_for(lambda: world.processes(senders=True))
            process.send_signal(how)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, errors) == (code, "")
    assert list(world.temporary.iterdir()) == []
    world.wait_for(lambda: not world.processes())


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


def healthy(**changes):
    good = Result(
        title="healthy",
        runs=2,
        delivers=True,
        requests=[request(*run_of("a")), request(*run_of("b"))],
        wall=[0.15, 0.2],
        wall_off=[0.1, 0.1],
    )
    return dataclasses.replace(good, **changes)


def hanging(**changes):
    return healthy(
        **{
            "delivers": False,
            "requests": [request(*run_of("a"), status=None), request(*run_of("b"), status=None)],
            **changes,
        }
    )


def test_nothing_to_complain_about():
    """What should be is no problem: everything delivered, or nothing where nobody answers or listens."""
    assert problems(healthy()) == []
    assert problems(hanging()) == []
    assert problems(hanging(requests=[])) == []


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (healthy(requests=[request(*run_of("a"))]), "4 of 8 events arrived"),
        (healthy(requests=[request(*run_of("a")), request(*run_of("b"), status=503)]), "4 of 8 events arrived"),
        (healthy(requests=[request(*run_of("a")), request(*run_of("b"))], oddities=["odd"]), "odd"),
        (healthy(requests=[request(*run_of("a")), request(*reversed(run_of("b")))]), "not in that order"),
        (healthy(wall=[1.3, 1.4, 1.3]), "slower than it ever may"),
        (hanging(requests=[request(*run_of("a")), request(*run_of("b"))]), "nobody accepts any"),
        (hanging(requests=[request(*run_of("a"), status=None)]), "only 4 of 8 events came"),
        (hanging(wall=[5.1, 5.1, 5.1]), "slower than it ever may"),
    ],
)
def test_what_is_wrong_is_named(result, said):
    """Whatever is not as it should be is named, and nothing else is."""
    (problem,) = problems(result)
    assert said in problem


def test_what_came_twice_is_named():
    """An event that a retry delivered a second time is a problem even though none is missing."""
    assert "an event arrived more than once" in problems(
        healthy(requests=[request(*run_of("a")), request(*run_of("b")), request(*run_of("b"))])
    )


def test_one_slow_run_is_no_problem():
    """Noise is no failure: the median counts, and on a machine where everything takes long, telemetry may, too."""
    assert problems(healthy(wall=[0.1, 0.1, 9.0])) == []
    assert problems(healthy(wall=[2.5, 2.5], wall_off=[1.0, 1.0])) == []


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
