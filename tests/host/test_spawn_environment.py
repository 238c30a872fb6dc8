"""Before a sender starts: whether it may, its environment, and where it imports from."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from atotelemetry.host import spawn
from atotelemetry.host.spawn import (
    SENDER_MARK,
    CannotSpawn,
    import_path,
    reason_not_to_spawn,
    sender_environment,
    start_sender,
)
from support_processes import run_python

SOURCE = str(Path(spawn.__file__).resolve().parents[2])


# The environment


def test_what_changes_how_python_runs_stays_behind():
    """Hooks into the interpreter and of coverage and debuggers would run in the sender, or end it."""
    names = """
        PYTHONINSPECT PYTHONSTARTUP PYTHONWARNINGS PYTHONOPTIMIZE PYTHONDEVMODE PYTHONUNBUFFERED PYTHONIOENCODING
        PYTHONUTF8 PYTHONSAFEPATH PYTHONUSERBASE PYTHONTRACEMALLOC PYTHONFAULTHANDLER PYTHONPROFILEIMPORTTIME
        PYTHONBREAKPOINT PYTHONHASHSEED PYTHONMALLOC PYTHONASYNCIODEBUG COV_CORE_SOURCE COVERAGE_PROCESS_START
        PYTEST_CURRENT_TEST PYCHARM_HOSTED PYDEVD_USE_FRAME_EVAL DEBUGPY_RUNNING
    """
    host = dict.fromkeys(names.split(), "x")
    assert sender_environment(host, ["/a"]) == {"PYTHONPATH": "/a", SENDER_MARK: "1"}


def test_what_says_where_things_are_is_kept():
    """Proxies, certificates, the person's own variables, and where this Python lies."""
    names = """
        HTTPS_PROXY https_proxy NO_PROXY ALL_PROXY SSL_CERT_FILE SSL_CERT_DIR PATH HOME LANG CI GITHUB_ACTIONS
        SYSTEMROOT TMPDIR COVERAGE ATO_TELEMETRY_LOG PYTHONHOME PYTHONPYCACHEPREFIX PYTHONDONTWRITEBYTECODE
        PYTHONPLATLIBDIR
    """
    host = {name: f"value of {name}" for name in names.split()}
    assert sender_environment(dict(host), []) == {**host, "PYTHONPATH": "", SENDER_MARK: "1"}


def test_the_path_is_the_one_given_whatever_the_host_had():
    """PYTHONPATH becomes the host's import path as it is now."""
    environment = sender_environment({"PYTHONPATH": "/old:/older"}, ["/a", "/b c"])
    assert environment["PYTHONPATH"] == f"/a{os.pathsep}/b c"


# The import path


def homes_of(*packages: str) -> set[str]:
    """Find where packages lie, by importing them in a process of their own."""
    program = f"""
import os, sys
for name in {packages!r}:
    module = __import__(name)
    print(os.path.dirname(os.path.dirname(os.path.abspath(module.__file__))))
"""
    return set(run_python(program).split())


@pytest.mark.posix("lib-dynload, and a package that lies outside site-packages")
def test_the_sender_imports_this_very_package_and_what_that_needs(monkeypatch, tmp_path):
    """The standard library and our own home come first; what else the host can import is not handed over."""
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), *sys.path, str(tmp_path / "last")])
    path = import_path()
    library = os.path.dirname(os.__file__)
    assert path[:3] == [library, os.path.join(library, "lib-dynload"), SOURCE]
    assert set(path[3:]) == homes_of("httpx", "msgspec", "truststore")


def test_a_package_may_lie_anywhere(monkeypatch, tmp_path):
    """As Bazel lays them out, each in a directory of its own, among a thousand that hold nothing of ours."""
    monkeypatch.setattr(spawn, "_PACKAGES", ("ours_one", "ours_two", "ours_three", "ours_missing"))
    monkeypatch.delitem(sys.modules, "msgspec", raising=False)
    for name in ("one", "two"):
        (tmp_path / name / f"ours_{name}").mkdir(parents=True)
        (tmp_path / name / f"ours_{name}" / "__init__.py").touch()
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "ours_three.py").touch()
    (tmp_path / "four").mkdir()
    (tmp_path / "four" / "brotli.py").touch()
    many = [str(tmp_path / f"runfiles{number}") for number in range(1000)]
    monkeypatch.setattr(sys, "path", [*many, *(str(tmp_path / name) for name in ("four", "three", "two", "one"))])
    assert import_path()[3:] == [str(tmp_path / name) for name in ("one", "two", "three")]


def test_the_working_directory_is_never_imported_from(monkeypatch, tmp_path):
    """Whatever name it has on the path: empty, a dot, absolute, through a symlink, or with a slash too many."""
    link = tmp_path / "link"
    here = tmp_path / "here"
    here.mkdir()
    (here / "needed.py").touch()
    link.symlink_to(here)
    monkeypatch.chdir(here)
    names = ["", ".", str(here), str(link), f"{here}/", f"{tmp_path}/./here"]
    monkeypatch.setattr(spawn, "_PACKAGES", (*spawn._PACKAGES, "needed"))
    monkeypatch.setattr(sys, "path", [*names, *sys.path])
    for entry in import_path():
        assert os.path.isabs(entry)
        assert not (os.path.exists(entry) and os.path.samefile(entry, here)), entry


def test_the_directory_that_the_host_was_started_in_is_not_imported_from_either(monkeypatch, tmp_path):
    """A host that changed its directory meanwhile was still started where a planted file may lie."""
    monkeypatch.setattr(spawn, "_START_DIRECTORY", str(tmp_path))
    (tmp_path / "needed.py").touch()
    monkeypatch.setattr(spawn, "_PACKAGES", (*spawn._PACKAGES, "needed"))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert str(tmp_path) not in import_path()


def test_a_relative_entry_means_what_it_means_now(monkeypatch, tmp_path):
    """The sender runs elsewhere: a relative entry is made absolute, and may not lead out of the path's grammar."""
    for name in ("lib", f"a{os.pathsep}b"):
        (tmp_path / name).mkdir()
    (tmp_path / "lib" / "needed.py").touch()
    (tmp_path / f"a{os.pathsep}b" / "wanted.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(spawn, "_PACKAGES", (*spawn._PACKAGES, "needed", "wanted"))
    monkeypatch.setattr(sys, "path", ["lib", f"a{os.pathsep}b", 7, None, *sys.path])
    path = import_path()
    assert str(tmp_path / "lib") in path
    assert not [entry for entry in path if os.pathsep in entry]


def test_a_package_in_the_working_directory_cannot_have_a_sender(monkeypatch):
    """Run from its own source directory this package could only be imported from there: no sender, then."""
    monkeypatch.chdir(SOURCE)
    with pytest.raises(CannotSpawn, match="working directory"):
        import_path()


def test_a_deleted_working_directory_is_no_obstacle(monkeypatch, tmp_path):
    """Nothing can be imported from where nothing is."""

    def gone() -> str:
        raise FileNotFoundError("no such directory")

    monkeypatch.setattr(spawn.os, "getcwd", gone)
    assert SOURCE in import_path()


# Whether at all


def test_an_ordinary_process_may_have_a_sender():
    """Here, now."""
    assert reason_not_to_spawn() == ""


@pytest.mark.parametrize(
    ("executable", "said"),
    [
        ("", "sys.executable is not known"),
        (None, "sys.executable is not known"),
        ("/usr/sbin/uwsgi", "sys.executable is not a Python interpreter"),
        ("C:\\Program Files\\CAD\\cad.exe", "sys.executable is not a Python interpreter"),
    ],
)
def test_what_is_no_interpreter_is_not_started_again(monkeypatch, executable, said):
    """An application that embeds Python would be started a second time instead of a sender."""
    monkeypatch.setattr(sys, "executable", executable)
    assert reason_not_to_spawn() == said


@pytest.mark.parametrize(
    "name", ["python", "python3.13", "Python", "pythonw.exe", "pypy3", "graalpy", "python3-intel64"]
)
def test_every_python_is_an_interpreter(monkeypatch, name):
    """Whatever it is called."""
    monkeypatch.setattr(sys, "executable", f"/usr/bin/{name}")
    assert reason_not_to_spawn() == ""


def test_a_frozen_application_has_no_interpreter(monkeypatch):
    """PyInstaller and its like set `sys.frozen`."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert reason_not_to_spawn().startswith("frozen application")


def test_a_sender_has_no_sender(monkeypatch):
    """The mark that every sender carries stops the second generation."""
    monkeypatch.setenv(SENDER_MARK, "1")
    assert reason_not_to_spawn() == "this process is a sender, or was started by one"


@pytest.mark.posix("descriptors")
def test_an_interpreter_that_is_gone_is_no_reason_to_try_again(monkeypatch, tmp_path):
    """A virtual environment that was deleted under the host ends it; no descriptor is left."""
    for name in ("executable", "_base_executable"):  # Windows starts the second one
        monkeypatch.setattr(sys, name, str(tmp_path / "python"))
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    with pytest.raises(CannotSpawn, match="the interpreter is gone"):
        start_sender()
    assert before == (set(os.listdir("/proc/self/fd")) if before else set())
