"""Each row of README's table of ways to say no, in a real process: no event, and nothing that a no forbids."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support_home import ID
from support_hosts import needs_senders

pytestmark = needs_senders

README = Path(__file__).parent.parent.parent / "README.md"

# Audit hooks see the calls of Python code, /proc all that is there afterwards.
RUN = """
import _thread, atexit
from atotelemetry.host.choice import choice_path
os.environ.pop("XDG_CONFIG_HOME", None)
sys.dont_write_bytecode = True  # files of the interpreter's own
home = os.environ["HOME"]
def write(path, text):
    path = os.path.join(home, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
def forget(*directories):
    import shutil
    for directory in directories:
        shutil.rmtree(os.path.join(home, directory), ignore_errors=True)
def forget_choices():
    forget(".config", ".atopile", "mytool", "atopile")
# The test's own files. Registered after ours, so it comes first.
atexit.register(lambda: (forget_choices(), os.chdir(home), forget("work")))
{prepare}
FORBIDDEN = (
    "socket.", "subprocess.", "os.posix_spawn", "os.fork", "os.exec", "os.mkdir", "os.rename", "os.link", "os.symlink",
    "os.remove", "os.chmod", "os.chown", "os.truncate", "_thread.start_new_thread", "_winapi.Create",
)
seen = []
def look(event, arguments):
    if event.startswith(FORBIDDEN):
        seen.append(event)
    elif event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        if not str(arguments[0]).startswith(sys.prefix) and "__pycache__" not in str(arguments[0]):
            seen.append(f"open {{arguments[0]}}")
sys.addaudithook(look)
def held():
    if os.name != "posix":
        return _thread._count()  # the audit hook sees the rest
    return sorted(os.listdir("/proc/self/fd")), os.listdir("/proc/self/task")
before = held()
telemetry = atotelemetry.Telemetry(
    app={app!r}, api_key="k", host=os.environ["TEST_SERVER"], run_properties=(){options}
)
{then}
with telemetry.capture("start", "end"):
    telemetry.capture_event("event", flush=True)
telemetry.capture_exception(ValueError("x"))
telemetry.client.capture("directly", distinct_id="me")
telemetry.client.flush(20, delivered=True)
after = held()
found = list(seen)
children = open("/proc/self/task/%d/children" % os.getpid()).read() if os.name == "posix" else ""
say(before == after, found, children, telemetry.client.disabled)
"""
YES = f'write(choice_path("{{app}}"), "id: {ID}\\ntelemetry: true\\n")'
NO = 'write(choice_path("mytool"), "telemetry: false\\n")'
WORK = 'os.makedirs(os.path.join(home, "work", ".git")); os.chdir(os.path.join(home, "work"))'


class Way:
    """One way to say no: variables, or lines of a program before or after the `Telemetry` is made."""

    def __init__(self, prepare="", *, app="mytool", options=", notice=None", then="", is_posix=False, **variables):
        self.app = app
        self.is_posix = is_posix
        self.prepare = "\n".join((YES.format(app=app), prepare))
        self.options = options
        self.then = then
        self.variables = variables


ROWS = {
    "`DO_NOT_TRACK=1`": [Way(DO_NOT_TRACK="1"), Way(do_not_track="yes", MYTOOL_TELEMETRY="on")],
    "`MYTOOL_TELEMETRY=off`": [Way(MYTOOL_TELEMETRY=value) for value in ("off", "0", "False", "NO", "huh")],
    (
        "`MYTOOL_TELEMETRY_DISABLED=1`, `MYTOOL_TELEMETRY_OPTOUT=1`, `MYTOOL_NO_TELEMETRY=1`, "
        "`MYTOOL_DISABLE_TELEMETRY=1`"
    ): [
        Way(MYTOOL_TELEMETRY_DISABLED="1"),
        Way(MYTOOL_TELEMETRY_OPTOUT="true"),
        Way(MYTOOL_NO_TELEMETRY="yes"),
        Way(MYTOOL_DISABLE_TELEMETRY="1", MYTOOL_TELEMETRY="on"),
    ],
    "`ATO_…` or `ATOPILE_…` of all these, `FBRK_TELEMETRY=0`": [
        Way(app="atopile", ATO_TELEMETRY="off"),
        Way(app="atopile", ATOPILE_TELEMETRY="off"),
        Way(app="atopile", ATOPILE_NO_TELEMETRY="1"),
        Way(app="atopile", FBRK_TELEMETRY="0"),
    ],
    "`mytool telemetry disable`": [
        Way(
            "from atotelemetry.command import telemetry_command\n"
            "say(telemetry_command(['disable'], atotelemetry.Telemetry(app='mytool')))"
        ),
    ],
    "`atotelemetry disable --app mytool`": [
        Way("from atotelemetry.__main__ import main\nsay(main(['disable', '--app', 'mytool']))")
    ],
    "`telemetry: false` in `~/.config/mytool/telemetry.yaml`": [
        Way(NO),
        Way('write(choice_path("mytool"), "{telemetry: Off}  # never")'),
        Way('write(choice_path("mytool"), "enabled: false")'),
        Way(NO, options=""),
    ],
    "`[tool.mytool] telemetry = false` in a project's `pyproject.toml`": [
        Way(WORK + '\nwrite("work/pyproject.toml", "[tool.mytool]\\ntelemetry = false\\n")')
    ],
    "`telemetry: false` in a project's `ato.yaml`": [
        Way(WORK + '\nwrite("work/ato.yaml", "telemetry: false\\n")', app="atopile")
    ],
    "`CI=true`": [Way(CI="true"), Way(CI="true", app="atopile")],
    "`telemetry: false` in `~/.atopile/telemetry.yaml`": [
        Way('write(".atopile/telemetry.yaml", "telemetry: false")', app="atopile", is_posix=True)
    ],
    "`sudo mytool`": [
        Way(
            'import pwd\nwrite("work/.config/mytool/telemetry.yaml", "telemetry: false")\n'
            "pwd.getpwuid = lambda _: pwd.struct_passwd(('a', 'x', 5, 5, '', os.path.join(home, 'work'), ''))",
            is_posix=True,
            SUDO_UID="54321",
        )
    ],
    "nothing at all": [Way("forget_choices()", options="")],
    "`telemetry.client.disabled = True`": [Way(then="telemetry.client.disabled = True")],
}


def rows_of_readme():
    text = README.read_text(encoding="utf-8")
    table = text.partition("<!-- no:begin -->")[2].partition("<!-- no:end -->")[0]
    return re.findall(r"^\| (.*?) \|", table, re.MULTILINE)[1:]


def test_every_row_of_the_readme_is_tested_here():
    """A way that README names is one that holds."""
    assert rows_of_readme() == list(ROWS)


@pytest.mark.parametrize(
    ("row", "number"),
    [
        pytest.param(row, number, marks=[pytest.mark.posix("places and accounts of POSIX")] * ways[number].is_posix)
        for row, ways in ROWS.items()
        for number in range(len(ways))
    ],
)
def test_a_no_means_nothing_at_all(hosts, row, number):
    """No event, no thread, no process, no new descriptor, no connection, no file."""
    way = ROWS[row][number]
    done = hosts.assert_runs(
        RUN.format(prepare=way.prepare, app=way.app, options=way.options, then=way.then),
        environment=way.variables,
        options=("-B",),  # the first run of a new checkout would write bytecode
        stdout=None,
    )
    assert done.stdout.splitlines()[-1] == "True []  True"
    assert hosts.server.connection_count == 0


def test_the_look_would_see_a_yes(hosts):
    """The counter-check: a run that may be measured has a thread, descriptors, a process and a connection."""
    way = Way()
    done = hosts.assert_runs(RUN.format(prepare=way.prepare, app="mytool", options=way.options, then=""), stdout=None)
    assert "posix_spawn" in done.stdout or "_winapi.CreateProcess" in done.stdout
    assert done.stdout.startswith("False")
    assert len(hosts.server.wait_for_events(5)) == 5
    hosts.wait_until_no_sender()


def test_the_look_would_see_a_file(hosts):
    """And a first run that makes its file."""
    done = hosts.run(RUN.format(prepare="forget_choices()", app="mytool", options=", notice=None", then=""))
    assert "os.mkdir" in done.stdout
    assert "telemetry.yaml" in done.stdout
    hosts.wait_until_no_sender()
