"""The user's directory holds files that happen to be called like modules: telemetry never runs them."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

import atotelemetry
from support_hosts import PREAMBLE, needs_senders
from support_listen import LISTEN

if TYPE_CHECKING:
    from support_hosts import Hosts

pytestmark = needs_senders

SOURCE = os.environ.get("HAZARD_SRC") or os.path.dirname(os.path.dirname(atotelemetry.__file__))
SITE_PACKAGES = os.path.dirname(os.path.dirname(msgspec.__file__))

# What a sender imports, at its start, for its first request, or if it is there; and what Python itself would run.
OURS = ("atotelemetry", "msgspec")
LIBRARIES = ("httpx", "httpcore", "h11", "anyio", "truststore", "brotli", "socksio", "trio", "h2", "yaml")
STANDARD = ("json", "ssl", "queue", "select", "datetime", "uuid", "tempfile", "encodings", "typing", "logging")
START_UP = ("sitecustomize", "usercustomize")

CAPTURE = """
client = new_client()
client.capture("arrived", distinct_id="me", properties={"odd": object})
client.flush()
"""


class Traps:
    """Modules that leave a mark when they run."""

    def __init__(self, directory: Path) -> None:
        self.marks = directory / "marks"
        self.marks.mkdir()

    def set(self, directory: Path, *names: str) -> Path:
        directory.mkdir(exist_ok=True)
        for name in names:
            trap = f"open({str(self.marks)!r} + '/{name}', 'w').close()\nraise RuntimeError('trapped')\n"
            if name in {"atotelemetry", "encodings"}:
                (directory / name).mkdir()
                (directory / name / "__init__.py").write_text(trap)
            else:
                (directory / f"{name}.py").write_text(trap)
        return directory

    def sprung(self) -> list[str]:
        return sorted(os.listdir(self.marks))


@pytest.fixture
def traps(tmp_path: Path) -> Traps:
    return Traps(tmp_path)


def test_script_run_in_a_directory_full_of_module_names(hosts: Hosts, traps: Traps, tmp_path: Path) -> None:
    """`python /elsewhere/tool.py` in a project that has a json.py, an httpx.py and an atotelemetry folder."""
    project = traps.set(tmp_path / "project", *OURS, *LIBRARIES, *STANDARD, *START_UP)
    hosts.start_command(hosts.command(CAPTURE), cwd=project).assert_ends()
    hosts.assert_arrived_once("arrived")
    assert traps.sprung() == []


def test_code_on_the_command_line(hosts: Hosts, traps: Traps, tmp_path: Path) -> None:
    """`python -c …`, for which Python itself puts the working directory first: the sender looks elsewhere."""
    project = traps.set(tmp_path / "project", *LIBRARIES, "json", "queue", "tempfile")
    hosts.start_command([sys.executable, "-c", PREAMBLE + CAPTURE], cwd=project).assert_ends()
    hosts.assert_arrived_once("arrived")
    assert traps.sprung() == []


@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves first"])
def test_module_in_the_working_directory(hosts: Hosts, traps: Traps, tmp_path: Path, leaves: bool) -> None:
    """`python -m tool`: Python puts the working directory first; also if the tool leaves it before anything else."""
    project = traps.set(tmp_path / "project", *LIBRARIES, "json", "queue", "tempfile")
    leave = "import os; os.chdir('/')\n" if leaves else ""
    (project / "tool.py").write_text(leave + PREAMBLE + CAPTURE)
    hosts.start_command([sys.executable, "-m", "tool"], cwd=project, environment={"PWD": str(project)}).assert_ends()
    hosts.assert_arrived_once("arrived")
    assert traps.sprung() == []


@pytest.mark.posix("symbolic links")
@pytest.mark.parametrize("entry", ["", ".", "link"], ids=["empty", "dot", "symlink"])
def test_python_path_that_means_the_working_directory(hosts: Hosts, traps: Traps, tmp_path: Path, entry: str) -> None:
    """PYTHONPATH with an empty entry, a dot, or the working directory by another name."""
    project = traps.set(tmp_path / "project", *LIBRARIES, "json", "queue", "tempfile")
    (tmp_path / "link").symlink_to(project)
    path = os.pathsep.join([str(tmp_path / "link") if entry == "link" else entry, "relative", SOURCE])
    hosts.start_command(hosts.command(CAPTURE), cwd=project, environment={"PYTHONPATH": path}).assert_ends()
    hosts.assert_arrived_once("arrived")
    assert traps.sprung() == []


def test_import_path_edited_by_hand(hosts: Hosts, traps: Traps, tmp_path: Path) -> None:
    """A host without site-packages that puts its own directories on `sys.path`, and the working directory, too."""
    project = traps.set(tmp_path / "project", *LIBRARIES, "json", "queue", "tempfile")
    edit = f"import os, sys\nsys.path += [{SOURCE!r}, {SITE_PACKAGES!r}]\n"
    late = "sys.path[:0] = ['', '.', os.getcwd(), None]\n"
    script = hosts.script(edit + PREAMBLE + late + CAPTURE, preamble=False)
    hosts.start_command([sys.executable, "-S", "-E", script], cwd=project).assert_ends()
    hosts.assert_arrived_once("arrived")
    assert traps.sprung() == []


def test_script_beside_files_with_famous_names(hosts: Hosts, traps: Traps, tmp_path: Path) -> None:
    """~/bin has a queue.py and a json.py of the user's beside the tool: they are no part of the sender."""
    scripts = traps.set(tmp_path / "bin", "json", "queue", "tempfile", "encodings", "httpx", *START_UP)
    script = hosts.script(CAPTURE, path=scripts / "tool.py")
    hosts.start_command([sys.executable, script]).assert_ends()
    hosts.assert_arrived_once("arrived")
    assert traps.sprung() == []


def test_path_of_a_thousand_entries_with_traps(hosts: Hosts, traps: Traps, tmp_path: Path) -> None:
    """As Bazel makes them, 200 KiB in all: the sender starts, and its optional packages are not taken from there."""
    last = traps.set(tmp_path / "last", *LIBRARIES, "zstandard", "sniffio", "typing_extensions")
    source = f"""
sys.path.extend(f"/runfiles/{{'x' * 185}}{{number}}" for number in range(1000))
sys.path.append({str(last)!r})
"""
    hosts.assert_runs(source + CAPTURE, arrived=["arrived"])
    assert traps.sprung() == []


def test_host_that_changes_its_directory(hosts: Hosts, traps: Traps, tmp_path: Path) -> None:
    """A build tool that goes into the project's directory, before its first event or between two."""
    project = traps.set(tmp_path / "project", *OURS, *LIBRARIES, *STANDARD, *START_UP)
    other = traps.set(tmp_path / "other", *OURS, *LIBRARIES, *STANDARD, *START_UP)
    source = f"""
client = new_client()
client.capture("before", distinct_id="me")
os.chdir({str(project)!r})
client.flush()
client.capture("inside", distinct_id="me")
handed_over(client, 2)
os.chdir({str(other)!r})
"""
    hosts.assert_runs(source, arrived=["before", "inside"])
    assert traps.sprung() == []


@pytest.mark.posix("a directory that is in use can be removed")
@pytest.mark.parametrize("when", ["before the import", "before the first event"])
def test_working_directory_deleted(hosts: Hosts, tmp_path: Path, when: str) -> None:
    """The directory that the host runs in is gone (a temporary build folder)."""
    gone = tmp_path / "gone"
    gone.mkdir()
    leave = "import os; os.rmdir(os.getcwd())\n"
    source = leave + PREAMBLE + CAPTURE if when == "before the import" else PREAMBLE + leave + CAPTURE
    hosts.start_command(hosts.command(source, preamble=False), cwd=gone).assert_ends()
    hosts.assert_arrived_once("arrived")


@pytest.mark.posix("symbolic links")
@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "deflated"])
def test_zipapp(hosts: Hosts, traps: Traps, tmp_path: Path, compressed: bool) -> None:
    """An application in one .pyz with atotelemetry inside, started by a relative name, its dependencies installed."""
    project = traps.set(tmp_path / "project", *OURS, *LIBRARIES, *STANDARD, *START_UP)
    (project / "dist").mkdir()
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(project / "dist" / "app.pyz", "w", method) as archive:
        for file in Path(SOURCE, "atotelemetry").rglob("*.py"):
            archive.write(file, file.relative_to(SOURCE))
        archive.writestr("__main__.py", PREAMBLE + "assert 'app.pyz' in atotelemetry.__file__\n" + CAPTURE)
    # Not through our own .pth file: there is no second atotelemetry that could help out.
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in os.listdir(SITE_PACKAGES):
        if "atotelemetry" not in name and not name.endswith(".pth"):
            (packages / name).symlink_to(Path(SITE_PACKAGES, name))
    command = [sys.executable, "-S", "dist/app.pyz"]
    hosts.start_command(command, cwd=project, environment={"PYTHONPATH": str(packages)}).assert_ends()
    hosts.assert_arrived_once("arrived")
    assert traps.sprung() == []


@pytest.mark.posix("symbolic links")
def test_virtual_environment(hosts: Hosts, tmp_path: Path) -> None:
    """A host in a venv whose python is a symlink: the sender finds what is installed there, and only there."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    venv = tmp_path / "venv"
    packages = venv / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    (venv / "bin").mkdir()
    python = venv / "bin" / "python"
    base = os.path.realpath(sys.executable)
    python.symlink_to(base)
    (venv / "pyvenv.cfg").write_text(f"home = {os.path.dirname(base)}\n")
    for name in os.listdir(SITE_PACKAGES):
        if "atotelemetry" not in name and not name.endswith((".pth", "__pycache__")):
            (packages / name).symlink_to(Path(SITE_PACKAGES, name))
    shutil.copytree(Path(SOURCE, "atotelemetry"), packages / "atotelemetry", ignore=shutil.ignore_patterns("*.pyc"))
    check = "assert atotelemetry.__file__.startswith(sys.prefix), atotelemetry.__file__\n"
    script = hosts.script(check + CAPTURE)
    hosts.start_command([str(python), script], environment={"PYTHONPATH": ""}).assert_ends()
    hosts.assert_arrived_once("arrived")


def test_atotelemetry_itself_in_the_working_directory(hosts: Hosts, tmp_path: Path) -> None:
    """A host that imports atotelemetry from the working directory: telemetry gives up, which one DEBUG line says."""
    project = tmp_path / "project"
    shutil.copytree(Path(SOURCE, "atotelemetry"), project / "atotelemetry", ignore=shutil.ignore_patterns("*.pyc"))
    source = """
client = new_client()
for number in range(3):
    client.capture(f"event {number}", distinct_id="me")
    client.flush()
assert "project" in atotelemetry.__file__
assert client.stats.queued == 0, client.stats
print(*[line for line in heard if line.startswith("telemetry")], sep="\\n")
"""
    done = hosts.run_command([sys.executable, "-c", PREAMBLE + LISTEN + source], cwd=project)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "telemetry gave up: atotelemetry was imported from the working directory\n"
    assert hosts.server.connection_count == 0


def test_planted_msgspec_where_python_looks_first(hosts: Hosts, tmp_path: Path) -> None:
    """`python -c` beside a msgspec.py, which Python finds before the real one: the host does not notice."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "msgspec.py").write_text("raise RuntimeError('planted')\n")
    source = """
client = new_client()
for number in range(3):
    assert client.capture(f"event {number}", distinct_id="me") is None
client.flush()
assert client.stats.dropped == 3
print(*heard, sep="\\n")
"""
    done = hosts.run_command([sys.executable, "-c", PREAMBLE + LISTEN + source], cwd=project)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "dropped an event (error): RuntimeError('planted'); any more are only counted\n"
