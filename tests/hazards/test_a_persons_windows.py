"""A person's Windows: places and file formats, planted files, git, backslashes in frames, names that stay private."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from atotelemetry.facts.run import run_properties

if sys.platform != "win32":
    pytest.skip("about Windows: see `make test-windows`", allow_module_level=True)

from support_home import ID
from support_windows import PATIENCE, PREAMBLE, Hosts


@pytest.fixture
def hosts(tmp_path, server):
    started = Hosts(tmp_path, server)
    yield started
    started.close()


def command(*arguments: str) -> str:
    """Run the package's own command; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "atotelemetry", *arguments], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    return done.stdout


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_of_an_editor_or_of_powershell(encoding):
    r"""With CRLF, a byte order mark, or in UTF-16, at %LOCALAPPDATA%\atopile\atopile as `platformdirs` has it."""
    file = Path(os.environ["LOCALAPPDATA"], "atopile", "atopile", "telemetry.yaml")
    file.parent.mkdir(parents=True)
    file.write_bytes(f"id: {ID}\r\ntelemetry: false\r\n".encode(encoding))
    said = command("status")
    assert "off" in said.splitlines()[0]
    assert str(file) in said
    command("enable")
    assert "on" in command("status").splitlines()[0]


def test_planted_files_are_not_imported(hosts, tmp_path):
    """Neither by the host's sender nor through its working directory, where anybody's project may lie."""
    for name in ("httpx", "h11", "json", "atotelemetry_planted"):
        planted = f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r})\n"
        (tmp_path / f"{name}.py").write_text(planted, encoding="utf-8")
    away = "import sys; del sys.path[0]\n"  # where the script lies, and so the planted files
    assert hosts.run(f"{away}{PREAMBLE}new_client().capture('event', distinct_id='me')", preamble=False) == (0, "", "")
    hosts.assert_arrived_once("event")
    assert not (tmp_path / "imported").exists()


def test_git_is_found_and_asked(tmp_path):
    """A `git.exe` on PATH, but not one in the working directory."""
    scripts = pytest.importorskip("pip._vendor.distlib.scripts")
    program = """
import sys
def main():
    if "config" in sys.argv:
        sys.stdout.buffer.write(b"user.email\\ndev@example.org\\0remote.origin.url\\nhttps://github.com/acme/widget.git\\0")
    else:
        print("a" * 40)
"""
    (tmp_path / "asked_git.py").write_text(program, encoding="utf-8")
    place = tmp_path / "bin"
    place.mkdir()
    maker = scripts.ScriptMaker(None, str(place))
    maker.executable = sys.executable
    maker.variants = {""}
    maker.make("git = asked_git:main")
    environ = {**os.environ, "PATH": str(place), "PYTHONPATH": str(tmp_path)}
    wanted = ("email", "current_git_hash", "project")
    found = run_properties(wanted, cwd=str(tmp_path), environ=environ, time_limit=PATIENCE)
    assert found == {"email": "dev@example.org", "current_git_hash": "a" * 40, "project": "github.com/acme/widget"}
    found = run_properties(wanted, cwd=str(place), environ=environ, time_limit=PATIENCE)
    assert found == {"current_git_hash": None, "project": None}


@pytest.mark.parametrize("cwd", [r"\\server\share\project", "D:\\project", "C:relative", "\\rooted"])
def test_a_directory_that_cannot_be_asked_about(cwd):
    """A share that is not there, a drive that does not exist, a path without a drive."""
    assert run_properties(("current_git_hash", "project_id"), cwd=cwd) == {"current_git_hash": None, "project_id": None}


def test_frames_of_the_application_and_names_of_people(hosts, tmp_path, server):
    r"""Frames lie in the package, with slashes; no `C:\Users\…` leaves the machine, in a path, a message or a repr."""
    package = tmp_path / "mytool"
    package.mkdir()
    (package / "__init__.py").touch()
    crash = "def crash(path):\n    raise OSError(2, 'cannot open ' + path, path)\n"
    (package / "cli.py").write_text(crash, encoding="utf-8")
    source = r"""
from mytool import cli
client = new_client()
try:
    cli.crash("C:\\Users\\Zoë Doe\\plans\\secret.ato")
except OSError as error:
    client.capture_exception(error, distinct_id="me")
client.flush(30)
"""
    assert hosts.run(source) == (0, "", "")
    (event,) = server.wait_for_events(1, timeout=PATIENCE)
    (entry,) = event["properties"]["$exception_list"]
    frame = entry["stacktrace"]["frames"][-1]
    assert (frame["filename"], frame["function"], frame["in_app"]) == ("mytool/cli.py", "crash", True)
    assert "Zo" not in str(event["properties"])
    assert "secret.ato" in entry["value"]
