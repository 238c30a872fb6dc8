"""The hazards of Windows, with real processes: exits, kills, consoles, jobs, a full pipe, and what is left after them.

`make test-windows` runs them under Wine.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atotelemetry.host.process import FLUSH_TIMEOUT
from atotelemetry.testing import Answer

if sys.platform != "win32":
    pytest.skip("about Windows: see `make test-windows`", allow_module_level=True)

import ctypes

from support_sender import closed_port
from support_windows import PATIENCE, PREAMBLE, Hosts, Process, kernel32, senders_of

pytestmark = pytest.mark.timeout(300)

SLACK = 1.5  # of a busy machine

THREE = """
client = new_client()
for number in range(3):
    client.capture(f"event {number}", distinct_id="me")
handed_over(client, 3)
"""
NAMES = ("event 0", "event 1", "event 2")


@pytest.fixture
def hosts(tmp_path, server):
    started = Hosts(tmp_path, server)
    yield started
    started.close()


# The exit


def test_a_host_that_never_imported_threading_ends(hosts):
    """No thread of ours becomes Python's main thread: the interpreter's exit would wait for it for ever."""
    source = """
client = new_client()
say("threading" in sys.modules)
client.capture("event", distinct_id="me")
handed_over(client, 1)
import threading
say(threading.main_thread() is threading.current_thread())
"""
    assert hosts.run(source) == (0, "False\nTrue\n", "")
    hosts.assert_arrived_once("event")


def test_a_server_does_not_change_the_time_of_an_exit(hosts, server):
    """Healthy, hanging or refusing: the host ends when its own work is done."""
    source = """
client = new_client()
for name in ("one", "two"):
    client.capture(name, distinct_id="me")
started = time.perf_counter()
client.shutdown()
say(time.perf_counter() - started)
"""
    seconds: dict[str, list[float]] = {"healthy": [], "hanging": [], "refusing": []}
    for _ in range(3):
        for kind, times in seconds.items():
            server.respond(Answer(hang=True) if kind == "hanging" else Answer())
            hosts.environment["TEST_SERVER"] = f"http://127.0.0.1:{closed_port()}" if kind == "refusing" else server.url
            code, said, errors = hosts.run(source)
            assert (code, errors) == (0, "")
            times.append(float(said))
    fastest = {kind: min(times) for kind, times in seconds.items()}
    assert max(fastest.values()) < min(fastest.values()) + 0.5, fastest
    assert max(fastest.values()) < FLUSH_TIMEOUT, fastest


@pytest.mark.parametrize("end", ["os._exit(7)", "hear()"], ids=["os._exit", "TerminateProcess"])
def test_an_abrupt_end_after_the_hand_over_loses_nothing(hosts, end):
    """The events are in the pipe, and the sender is nobody's to end."""
    host = hosts.start(THREE + f"say('ready')\n{end}")
    assert host.hear() == "ready"
    if end == "hear()":
        host.process.kill()
    assert host.finish()[0] == (1 if end == "hear()" else 7)
    hosts.assert_arrived_once(*NAMES)


def test_events_of_the_last_moment_arrive(hosts):
    """The exit hook hands over what was captured last."""
    assert hosts.run("new_client().capture('last', distinct_id='me')") == (0, "", "")
    hosts.assert_arrived_once("last")


# The console


@pytest.mark.parametrize("event", [0, 1], ids=["Ctrl-C", "Ctrl-Break"])
def test_the_consoles_keys_are_about_the_host(hosts, server, event):
    """Windows sends them to every process of the console, and the sender has none of its own to lose."""
    server.respond(Answer(delay=1.0))
    source = f"""
import ctypes
kernel32 = ctypes.WinDLL("kernel32")
kernel32.FreeConsole()
assert kernel32.AllocConsole()
kernel32.SetConsoleCtrlHandler(None, False)
{THREE}
try:
    if not kernel32.GenerateConsoleCtrlEvent({event}, 0):
        os._exit(3)
    time.sleep(20)  # of all waits the one that Ctrl-C ends there
except KeyboardInterrupt:
    os._exit(130)
"""
    code, _, _ = hosts.run(source)
    if code == 3:
        pytest.skip("Wine knows no Ctrl-Break without a terminal")
    assert code != 0
    hosts.assert_arrived_once(*NAMES)


def test_no_window_flashes_up_and_only_three_handles_are_inherited(hosts):
    """CREATE_NO_WINDOW, CREATE_NEW_PROCESS_GROUP, CREATE_BREAKAWAY_FROM_JOB; a lower priority; a list of handles."""
    source = """
import _winapi
create = _winapi.CreateProcess
def telling(name, line, process, thread, inherit, flags, environment, directory, startup):
    handles = startup.lpAttributeList["handle_list"]
    own = [startup.hStdInput, startup.hStdOutput, startup.hStdError]
    say(hex(flags), handles == own, len(handles), os.path.isdir(directory), directory != os.getcwd())
    return create(name, line, process, thread, inherit, flags, environment, directory, startup)
_winapi.CreateProcess = telling
new_client().capture("event", distinct_id="me")
"""
    assert hosts.run(source) == (0, f"{0x08000000 | 0x200 | 0x01000000 | 0x4000:#x} True 3 True True\n", "")
    hosts.assert_arrived_once("event")


def test_a_host_without_standard_streams(hosts):
    """`pythonw.exe` has none."""
    source = """
for descriptor in range(3):  # Wine gives it some all the same
    os.close(descriptor)
sys.stdin = sys.stdout = sys.stderr = None
new_client().capture("event", distinct_id="me")
"""
    host = hosts.start(source, executable=str(Path(sys.executable).with_name("pythonw.exe")))
    assert host.finish()[0] == 0
    hosts.assert_arrived_once("event")


def test_captured_output_ends_with_the_host(hosts, server):
    """A parent that reads to the end of file does not wait for the sender, which still has work for long."""
    server.respond(Answer(hang=True))
    host = hosts.start("new_client().capture('event', distinct_id='me'); say('built')")
    assert host.finish() == (0, "built\n", "")
    (request,) = server.wait_for_requests(1, timeout=PATIENCE)
    assert request.status is None
    assert not hosts.wait_for_sender().wait(0)


# The last words

WATCHED = """
telemetry = atotelemetry.Telemetry(
    app="host", api_key="phc_test", host=os.environ["TEST_SERVER"], notice=None, report_crash=True, run_properties=()
)
telemetry.capture_event("built")
handed_over(telemetry.client, 1)
"""


@pytest.mark.parametrize(
    ("end", "signal"),
    [("hear()", None), ("os._exit(0xC0000005 - 2**32)", "0xC0000005")],
    ids=["TerminateProcess", "access violation"],
)
def test_a_host_that_somebody_ends_is_reported_once(hosts, end, signal):
    """The exit code of a process that an exception ends is the exception's; of any other, only that it is not 0."""
    host = hosts.start(WATCHED + f"say('ready')\n{end}")
    assert host.hear() == "ready"
    if end == "hear()":
        host.process.kill()
    host.finish()
    hosts.assert_arrived_once("built", "run_vanished")
    (told,) = (event["properties"] for event in hosts.server.events if event["event"] == "run_vanished")
    assert told.get("signal") == signal
    assert told["outcome"] == ("unknown" if signal is None else "killed")


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "1 / 0", "os._exit(0)"])
def test_a_host_that_ends_by_itself_leaves_no_report(hosts, end):
    """Its own code and traceback are no news."""
    hosts.run(WATCHED + end)
    hosts.assert_arrived_once("built")


# A sender that does not read


def test_a_stopped_sender_and_a_full_pipe_cost_the_exit_no_more_than_the_timeout(hosts):
    """A suspended process reads nothing. `capture` says no at once, and the exit gives up in time."""
    source = """
client = new_client(queue_size=50)
client.capture("event 0", distinct_id="me")
handed_over(client, 1)
say("ready")
hear()
slowest = 0.0
for number in range(1, 500):
    started = time.perf_counter()
    client.capture(f"event {number}", distinct_id="me", properties={"padding": "x" * 4000})
    slowest = max(slowest, time.perf_counter() - started)
stats = client.stats
say(slowest < 0.25, stats.dropped > 300, stats.captured == stats.handed_over + stats.dropped + stats.queued)
import atexit
started = time.perf_counter()
atexit._run_exitfuncs()
say(time.perf_counter() - started)
"""
    host = hosts.start(source)
    assert host.hear() == "ready"
    sender = hosts.wait_for_sender()
    hosts.server.wait_for_events(1, timeout=PATIENCE)
    sender.suspend()
    host.tell()
    assert host.hear() == "True True True"
    seconds = float(host.hear())
    assert FLUSH_TIMEOUT - 0.1 < seconds < FLUSH_TIMEOUT + SLACK
    assert host.finish()[0] == 0
    sender.resume()
    hosts.wait_until_no_sender()


def test_a_sender_ends_at_its_deadline(hosts, server):
    """Whatever the server does, and nothing is left after it."""
    server.respond(Answer(hang=True))
    assert hosts.run("new_client(sender_deadline=2.0, request_timeout=60).capture('event', distinct_id='me')")[0] == 0
    began = time.monotonic()
    hosts.wait_for_sender()
    hosts.wait_until_no_sender()
    assert time.monotonic() - began < 2.0 + 5 * SLACK


def test_a_sender_that_dies_is_replaced(hosts):
    """Its pipe is broken: the next event starts another."""
    source = """
client = new_client()
client.capture("first", distinct_id="me")
handed_over(client, 1)
say("ready")
hear()
client.capture("second", distinct_id="me")
say(client.flush(30))
"""
    host = hosts.start(source)
    assert host.hear() == "ready"
    hosts.server.wait_for_events(1, timeout=PATIENCE)
    sender = hosts.wait_for_sender()
    sender.terminate()
    assert sender.wait(PATIENCE)
    host.tell()
    assert host.hear() == "True"
    assert host.finish()[0] == 0
    hosts.assert_arrived_once("first", "second")


# Many


def test_twenty_thousand_events_arrive(hosts, server):
    """Each once, through a pipe that is full all the time."""
    source = """
client = new_client(queue_size=20_000)
for number in range(20_000):
    client.capture(f"event {number}", distinct_id="me")
say(client.flush(50), client.stats.dropped)
"""
    assert hosts.run(source) == (0, "True 0\n", "")
    hosts.assert_arrived_once(*(f"event {number}" for number in range(20_000)))


def test_sixteen_hosts_at_once(hosts):
    """All their events arrive once, and no sender is left."""
    source = "new_client(sender_deadline=60).capture(f'host {sys.argv[1]}', distinct_id='me')"
    running = [hosts.start(source, str(number)) for number in range(16)]
    for host in running:
        assert host.finish() == (0, "", "")
    hosts.assert_arrived_once(*(f"host {number}" for number in range(16)))


# Jobs

KILL_ON_JOB_CLOSE, BREAKAWAY_OK = 0x2000, 0x0800  # JOB_OBJECT_LIMIT_…, winnt.h


class Job:
    """A job object, as a CI runner or a terminal keeps its processes in."""

    def __init__(self, flags: int) -> None:
        self._handle = ctypes.c_void_p(kernel32.CreateJobObjectW(None, None))
        limits = (ctypes.c_uint32 * 36)()  # JOBOBJECT_EXTENDED_LIMIT_INFORMATION, whose fifth word are the flags
        limits[4] = flags
        assert kernel32.SetInformationJobObject(self._handle, 9, limits, ctypes.sizeof(limits))

    def take(self, process: subprocess.Popen[str]) -> None:
        assert kernel32.AssignProcessToJobObject(self._handle, ctypes.c_void_p(int(process._handle)))

    def end(self) -> None:
        """End every process that is left in it."""
        kernel32.TerminateJobObject(self._handle, 1)
        kernel32.CloseHandle(self._handle)


@pytest.mark.parametrize("flags", [BREAKAWAY_OK | KILL_ON_JOB_CLOSE, KILL_ON_JOB_CLOSE], ids=["lets go", "keeps"])
def test_the_end_of_a_job(hosts, server, flags):
    """Where its job lets processes go, the sender outlives it; elsewhere it starts all the same."""
    job = Job(flags)
    host = hosts.start("hear()\n" + THREE + "say('ready'); hear()")
    job.take(host.process)
    host.tell()
    assert host.hear() == "ready"
    if not flags & BREAKAWAY_OK:
        server.wait_for_events(3, timeout=PATIENCE)
    job.end()
    assert host.finish()[0] == 1
    hosts.assert_arrived_once(*NAMES)


# Interpreters

PARENTS = """
client = new_client()
client.capture("event", distinct_id="me")
handed_over(client, 1)
say(os.getpid(), sys.executable != sys._base_executable)
hear()
"""


def test_the_sender_of_a_virtual_environment_has_no_launcher(hosts, tmp_path):
    """`python.exe` there starts the real one and waits for it; the sender is the real one's child, at once."""
    command = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")]
    if subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False).returncode:
        pytest.skip("Wine makes no virtual environment with this Python")
    hosts.environment["PYTHONPATH"] = ";".join(filter(None, sys.path))
    host = hosts.start(PARENTS, executable=str(tmp_path / "venv" / "Scripts" / "python.exe"))
    pid, is_launched = host.hear().split()
    assert is_launched == "True"
    (sender,) = senders_of(int(pid))
    assert senders_of(sender) == []
    host.tell()
    assert host.finish()[0] == 0
    process = Process(sender)
    hosts.server.wait_for_events(1, timeout=PATIENCE)
    assert process.wait(PATIENCE)
    process.close()


def test_an_interpreter_that_ignores_its_environment(hosts, tmp_path):
    """The "embeddable package": a `._pth` file says where it imports from, and PYTHONPATH is not looked at."""
    home = tmp_path / "embedded"
    home.mkdir()
    base = Path(sys.base_prefix)
    for file in (*base.glob("python*.exe"), *base.glob("*.dll")):
        shutil.copy(file, home)
    places = [str(base / "Lib"), str(base / "DLLs")]
    (home / f"python{sys.version_info[0]}{sys.version_info[1]}._pth").write_text("\n".join(places) + "\n")
    path = [entry for entry in sys.path if entry]
    source = f"import sys\nsys.path[:0] = {path!r}\n{PREAMBLE}new_client().capture('event', distinct_id='me')"
    assert hosts.run(source, executable=str(home / "python.exe"), preamble=False) == (0, "", "")
    hosts.assert_arrived_once("event")
