"""A project's no: where it may stand, how it may be written, and that a project without one costs nothing."""

from __future__ import annotations

import os

import pytest

from atotelemetry.host.consent import read_consent
from support_home import ID, fresh_home, store
from support_processes import run_python


@pytest.fixture
def project(monkeypatch, tmp_path):
    """Make a repository, and the working directory one of its own."""
    fresh_home(monkeypatch, tmp_path)
    (tmp_path / "project" / ".git").mkdir(parents=True)
    (tmp_path / "project" / "src").mkdir()
    monkeypatch.chdir(tmp_path / "project" / "src")
    return tmp_path / "project"


NO = {
    "section": "[tool.mytool]\ntelemetry = false\n",
    "quoted": '[tool."mytool"]\n"telemetry" = false\n',
    "spaces": "[ tool . mytool ]\n  telemetry=false\n",
    "no header": "tool.mytool.telemetry = false\n",
    "below tool": "[tool]\nmytool.telemetry = false\n",
    "inline": "tool = {mytool = {telemetry = false}}\n",
    "inline in tool": "[tool]\nmytool = {telemetry = false}\n",
    "word": "[tool.mytool]\ntelemetry = 'off'\n",
    "number": "[tool.mytool]\ntelemetry = 0\n",
    "unclear": "[tool.mytool]\ntelemetry = 'perhaps'\n",
    "a section of its own": "[tool.mytool.telemetry]\nenabled = false\n",
    "not understood": "[tool.mytool]\ntelemetry = false\n]\n",
    "after much else": "[project]\nname = 'x'\n[tool.mytool]\ntelemetry = false\n[tool.z]\n" + "#" * 70_000,
}

NO_NO = {
    "yes": "[tool.mytool]\ntelemetry = true\n",
    "another's": "[tool.other]\ntelemetry = false\n# mytool\n",
    "other keys": "[tool.mytool]\ntheme = 'dark' # telemetry\n",
    "not a tool": "[mytool]\ntelemetry = false\n",
    "a comment": "# [tool.mytool]\n# telemetry = false\n",
    "nothing": "",
    "not ours, not understood": "[tool.other]\n]\n",
}


@pytest.mark.parametrize("name", NO)
def test_a_project_says_no(project, name):
    """A team can say no for everybody who works there, in any way TOML knows."""
    store(project / "pyproject.toml", NO[name])
    consent = read_consent("mytool")
    assert consent.mode == "off"
    assert str(project / "pyproject.toml") in consent.reason
    assert read_consent("mytool2").mode == "on"


@pytest.mark.parametrize("name", NO_NO)
def test_a_project_that_says_no_such_thing(project, name):
    """Nothing else in a project file means anything."""
    store(project / "pyproject.toml", NO_NO[name])
    assert read_consent("mytool").mode == "on"


@pytest.mark.posix("the places of the XDG specification")
def test_a_project_cannot_say_yes(project, tmp_path):
    """The person's own no stands."""
    store(project / "pyproject.toml", "[tool.mytool]\ntelemetry = true\n")
    store(tmp_path / "home" / ".config" / "mytool" / "telemetry.yaml", "telemetry: false\n")
    assert read_consent("mytool").mode == "off"


def test_a_projects_no_stands_against_the_file_and_falls_to_a_variable(project, tmp_path, monkeypatch):
    """The order: variables, the project, the file."""
    store(tmp_path / "home" / ".config" / "mytool" / "telemetry.yaml", f"id: {ID}\ntelemetry: true\n")
    store(project / "pyproject.toml", NO["section"])
    assert read_consent("mytool").mode == "off"
    monkeypatch.setenv("MYTOOL_TELEMETRY", "on")
    assert read_consent("mytool").mode == "on"


def test_the_search_ends_at_the_root_of_the_repository(project, tmp_path):
    """A file above the repository is somebody else's."""
    store(tmp_path / "pyproject.toml", NO["section"])
    assert read_consent("mytool").mode == "on"


def test_without_a_repository_the_search_goes_up_ten_levels(monkeypatch, tmp_path):
    """And no further."""
    fresh_home(monkeypatch, tmp_path)
    store(tmp_path / "pyproject.toml", NO["section"])
    for levels, mode in ((9, "off"), (10, "on")):
        place = tmp_path.joinpath(*"abcdefghij"[:levels])
        place.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(place)
        assert read_consent("mytool").mode == mode


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        ("telemetry: false\n", "off"),
        ("requires-atopile: ^0.9\ntelemetry: 'no' # here\nbuilds: {}\n", "off"),
        ("{telemetry: off}", "off"),
        ("telemetry: perhaps\n", "off"),
        ("telemetry: false\n[", "off"),
        ("telemetry: true\n", "on"),
        ("builds:\n  default:\n    entry: telemetry.ato:App\n", "on"),
        ("builds:\n  telemetry:\n    entry: a.ato:App\n", "on"),
    ],
)
def test_atopiles_project_file(project, content, mode):
    """`telemetry: false` at the top of ato.yaml is a no for atopile, and for nobody else."""
    store(project / "ato.yaml", content)
    assert read_consent("atopile").mode == mode
    assert read_consent("mytool").mode == "on"


@pytest.mark.posix("a directory that is in use can be removed")
def test_the_working_directory_may_be_gone(project):
    """A run in a deleted directory has no project."""
    (project / "src").rmdir()
    assert read_consent("mytool").mode == "on"


@pytest.mark.posix("named pipes in a directory")
def test_what_is_no_file_is_not_waited_for(project):
    """A directory or a named pipe of that name is none."""
    os.mkfifo(project / "pyproject.toml")
    (project / "src" / "pyproject.toml").mkdir()
    assert read_consent("mytool").mode == "on"


@pytest.mark.parametrize(
    ("content", "parsers"),
    [
        (None, ""),
        ("[project]\nname = 'mytool'\ndescription = 'atopile telemetry'\n[tool.ruff]\nselect = ['telemetry']\n", ""),
        (NO_NO["yes"], "tomllib"),
    ],
)
def test_a_parser_is_loaded_only_for_a_project_that_speaks_of_us(project, content, parsers):
    """A search for the section's bytes comes first; the last row shows that the test would see a parser."""
    if content is not None:
        store(project / "pyproject.toml", content)
    program = (
        "import sys; from atotelemetry.host.consent import read_consent as r; r('mytool')\n"
        "print(*sorted({'tomllib', 'yaml', 're'} & set(sys.modules) - before))"
    )
    loaded = run_python(f"import sys; before = set(sys.modules); {program}").split()
    assert parsers in loaded if parsers else not loaded
