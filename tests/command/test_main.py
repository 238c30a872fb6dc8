"""The command itself: its help, its subcommands, and outputs that cannot be written."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys

import pytest

import atotelemetry
from atotelemetry.__main__ import main

# Of each command, the module that it is in.
COMMANDS = {
    "status": "consent",
    "enable": "consent",
    "disable": "consent",
    "show": "show",
    "test": "test_event",
    "serve": "serve",
}
# What talks to a server, and what only encodes events.
HEAVY = {"httpx", "asyncio", "truststore", "msgspec"}

# Runs the command and then lists, on stderr, what was imported: `-X importtime` does not see `import_module`.
LISTING = """
import sys
from atotelemetry.__main__ import main
code = main(sys.argv[1:])
print(*sys.modules, sep="\\n", file=sys.stderr)
sys.exit(code)
"""


def environment(home, unbuffered=""):
    """Return the environment of a person without a choice, who has `home` for it."""
    # Told not to buffer, the interpreter writes, and fails, at another moment than it does for most users.
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in {"PYTHONUNBUFFERED", "DO_NOT_TRACK", "ATO_TELEMETRY", "ATO_SERVICES_TELEMETRY_URL"}
    }
    return {**kept, "XDG_CONFIG_HOME": str(home), "PYTHONUNBUFFERED": unbuffered}


def run(*arguments, home="/nowhere", unbuffered="", **options):
    return subprocess.run(
        [sys.executable, "-m", "atotelemetry", *arguments],
        capture_output="stdout" not in options,
        encoding="utf-8",
        env=environment(home, unbuffered),
        check=False,
        **options,
    )


def run_shell(line, home):
    return subprocess.run(
        ["sh", "-c", line], capture_output=True, encoding="utf-8", env=environment(home), check=False, timeout=50
    )


def test_help_lists_every_command():
    """--help names every subcommand, each with one line that says what it is for."""
    ended = run("--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.findall(r"^    (\w+) +\w.*", ended.stdout, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name):
    """Each subcommand's --help says what it does and shows an example of it."""
    ended = run(name, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"usage: atotelemetry {name}")
    assert f"examples:\n  atotelemetry {name}" in ended.stdout


def test_version():
    """--version prints name and version."""
    ended = run("--version")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"atotelemetry {atotelemetry.__version__}\n", "")


def test_without_a_command():
    """Called with nothing, it prints its help on stderr and exit code 2: a script must not take it for success."""
    ended = run()
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("usage: atotelemetry ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonsense",), "invalid choice: 'nonsense'"),
        (("--nonsense",), "unrecognized arguments: --nonsense"),
        (("status", "--nonsense"), "unrecognized arguments: --nonsense"),
        (("--nonsense", "status"), "unrecognized arguments: --nonsense"),
        (("status", "more"), "unrecognized arguments: more"),
    ],
)
def test_called_wrongly(arguments, said):
    """A command or option that does not exist is named on stderr, with exit code 2 and no traceback."""
    ended = run(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_is_the_installed_command():
    """The `atotelemetry` script that the package installs is this `main`."""
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="atotelemetry")
    assert script.load() is main


def test_returns_the_exit_code(capsys):
    """`main` takes its arguments, and returns the exit code also where argparse would end the process."""
    assert main(["--version"]) == 0
    assert main(["nonsense"]) == 2
    assert capsys.readouterr().out == f"atotelemetry {atotelemetry.__version__}\n"


def test_passes_on_the_command_s_exit_code(monkeypatch):
    """What a subcommand returns is the exit code."""
    monkeypatch.setattr("atotelemetry.command.consent.run_status", lambda args: 1 if args.json else 0)
    assert (main(["status"]), main(["status", "--json"])) == (0, 1)


def test_ctrl_c_is_quiet(monkeypatch, capsys):
    """Ctrl-C in the middle of a command gives the exit code that shells expect, and no traceback."""

    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("atotelemetry.command.consent.run_status", interrupted)
    assert main(["status"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("arguments", [("--help",), ("status",), ("status", "--help")])
def test_reader_that_went_away(arguments):
    """When nobody reads the output (`| head -1`) the command ends without a word."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb") as output:
        ended = run(*arguments, stdout=output, stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.parametrize("arguments", [("status",), ("show",), ("show", "--json"), ("disable",)])
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device")
def test_output_that_cannot_be_written(arguments, unbuffered, tmp_path):
    """On a full disk the command says so, with exit code 1 and no traceback, whenever the writing fails."""
    with open("/dev/full", "wb") as output:
        ended = run(*arguments, home=tmp_path, unbuffered=unbuffered, stdout=output, stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (1, "atotelemetry: No space left on device\n")


@pytest.mark.posix("a shell closes descriptors")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize("arguments", ["--help", "status", "status --json", "show", "show --json", "disable"])
def test_closed_output(arguments, closed, tmp_path):
    """Whoever closed an output does not want to see it: the command does its work, and says what else it has to say."""
    ended = run_shell(f"{sys.executable} -m atotelemetry {arguments} {closed}", home=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert bool(ended.stdout) == (closed == "2>&-")


@pytest.mark.posix("a shell closes descriptors")
@pytest.mark.parametrize(("command", "answer"), [("disable", "telemetry: false"), ("enable", "telemetry: true")])
@pytest.mark.parametrize("output", ["| true", ">/dev/full", ">&-"])
def test_a_choice_is_made_though_nobody_can_be_told(command, answer, output, tmp_path):
    """And nothing says that it was not."""
    ended = run_shell(f"{sys.executable} -u -m atotelemetry {command} {output}", home=tmp_path)
    assert " not " not in ended.stderr
    assert "Traceback" not in ended.stderr
    assert answer in (tmp_path / "atopile" / "telemetry.yaml").read_text(encoding="utf-8").splitlines()


def listing(*arguments):
    return [sys.executable, "-c", LISTING, *arguments]


def imported(*arguments):
    """Return the names of all modules that the command imported."""
    ended = subprocess.run(listing(*arguments), capture_output=True, encoding="utf-8", check=False)
    assert ended.returncode == 0, ended.stderr
    return set(ended.stderr.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_loads_no_other_command(name):
    """A subcommand's --help loads what that subcommand is made of, nothing of the others and nothing heavy."""
    modules = imported(name, "--help")
    parts = {module.rpartition(".")[2] for module in modules if module.startswith("atotelemetry.command.")}
    # How `show` and `test` decide and speak is how `status` does.
    of_consent = {"consent"} if name in {"show", "test"} else set()
    assert parts == {COMMANDS[name]} | of_consent
    assert not modules & (HEAVY | {"http", "ssl", "atotelemetry.host.client"})


def test_help_loads_no_command():
    """The list of subcommands needs none of them."""
    modules = imported("--help")
    assert "argparse" in modules
    assert not {module for module in modules if module.startswith(("atotelemetry.command", "atotelemetry.host"))}


def test_status_is_light():
    """Asking for the status loads neither the network nor the encoder."""
    assert not imported("status") & (HEAVY | {"http", "ssl"})


@pytest.mark.posix("signals end a server")
def test_serve_is_light():
    """The local server runs without the HTTP client that senders use, and without the encoder."""
    with subprocess.Popen(
        listing("serve", "--port", "0"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdout.readline().startswith("Listening on ")
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    modules = set(errors.split())
    assert "atotelemetry.testing" in modules
    assert not modules & HEAVY
