"""Editing a person's file: one value changes, and no other byte."""

from __future__ import annotations

import errno
import os
import re
import stat
import uuid

import pytest

from atotelemetry.host import edit as edit_module
from atotelemetry.host.consent import read_choice, read_consent
from atotelemetry.host.edit import with_choice, write_choice
from support_choice import CANONICAL, DAMAGED, identity
from support_home import ID, files_below, store
from support_processes import run_at_once

# A file before and after a no: between « and » stands what `false` replaces, or both versions around an arrow.
EDITS = {
    "canonical": f"id: {ID}\ntelemetry: «true»\n",
    "comments and order": f"# mine\ntelemetry: «yes»   # why not\n\nid: {ID} # me\ntheme: dark\n",
    "flow": f"{{telemetry: «yes», id: {ID}}}",
    "flow over lines": f"{{\n  id: {ID},  # me\n  telemetry: «'on'»,\n}}",
    "json": f'{{"id": "{ID}", "telemetry": «true»}}',
    "quotes": f"'telemetry': «\"yes\"»\nid: '{ID}'\n",
    "document markers": f"%YAML 1.1\n---\ntelemetry: «on»\nid: {ID}\n...\n",
    "windows lines": f"id: {ID}\r\ntelemetry: «true» # x\r\n",
    "accents before": f"# für 😀\nname: Zoë\ntelemetry: «true»\nid: {ID}",
    "byte order mark": f"\ufefftelemetry: «true»\nid: {ID}\n",
    "missing key": f"# mine\n«→telemetry: false\n»id: {ID}\n",
    "missing key, windows lines": f"«→telemetry: false\r\n»id: {ID}\r\n",
    "missing key, indented": f"«→  telemetry: false\n»  id: {ID}\n  a: b\n",
    "missing key, flow": f"{{«→telemetry: false, »id: {ID}}}",
    "missing key, nothing else": "{«→telemetry: false»}\n",
    "missing key, merged": f"«→telemetry: false\n»b: &b {{telemetry: yes}}\n<<: *b\nid: {ID}\n",
    "unclear": f"id: {ID}\ntelemetry: «maybe» # ?\n",
    "no value": f"telemetry:«→ false»\nid: {ID}\n",
    "no value, flow": f"{{telemetry: «→false », id: {ID}}}",
    "no colon, flow": f"{{telemetry«→: false», id: {ID}}}",
    "alias": f"d: &d yes\ntelemetry: «*d»  # x\nid: {ID}\ne: *d\n",
    "twice": f"telemetry: «yes»\nid: {ID}\ntelemetry: «yes»\n",
    "explicit key": f"? telemetry\n: «yes»\n? id\n: {ID}\n",
    "capital key": f"Telemetry: «Yes»\nid: {ID}\n",
    "next line": f"telemetry:\n  «yes»\nid: {ID}\n",
}
MARKED = re.compile("«([^→»]*)(?:→([^»]*))?»")


def before(name):
    """Return the file that a person had."""
    return MARKED.sub(r"\1", EDITS[name])


def after(name, word):
    """Return that file when the choice is the one that `word` says."""
    return MARKED.sub(lambda mark: (mark[2] or "false").replace("false", word), EDITS[name])


@pytest.mark.parametrize("name", EDITS)
def test_disabling_changes_one_value_and_no_other_byte(file, name):
    """Comments, order, quotes, line ends and other keys survive; only the value of `telemetry` changes."""
    store(file, before(name))
    said = write_choice("atopile", enabled=False)
    assert file.read_bytes() == after(name, "false").encode()
    assert f"telemetry: false in {file}, line ".lower() in said.lower()
    assert files_below(file.parent) == ["telemetry.yaml"]
    assert read_consent().mode == "off"


@pytest.mark.parametrize("name", EDITS)
def test_enabling_again_says_yes_and_touches_nothing_else(file, name):
    """After `disable`, `enable` gives back the same file but for the spelling of yes."""
    store(file, after(name, "false"))
    write_choice("atopile", enabled=True)
    assert file.read_bytes() == after(name, "true").encode()
    assert read_consent().mode == "on"


def test_utf_16_stays_utf_16(file):
    """A file as PowerShell writes it is edited in its own encoding."""
    store(file, f"\ufefftelemetry: yes # ä\r\nid: {ID}\r\n".encode("utf-16-le"))
    write_choice("atopile", enabled=False)
    assert file.read_bytes() == f"\ufefftelemetry: false # ä\r\nid: {ID}\r\n".encode("utf-16-le")


@pytest.mark.parametrize("content", ["telemetry: no # never\n", "{telemetry: 'off'}", "Telemetry: 0"])
def test_a_file_that_says_so_already_is_left_alone(file, content):
    """Saying no twice keeps the person's own words, and their time stamp."""
    raw = store(file, content)
    before = file.stat()
    assert write_choice("atopile", enabled=False).startswith("nothing to change: ")
    assert file.read_bytes() == raw
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_choice_before_the_first_run_creates_the_file(file, enabled):
    """Enable and disable create a complete file, with an id, when there is none."""
    said = write_choice("atopile", enabled=enabled)
    choice = read_choice(str(file))
    assert choice.state == ("on" if enabled else "off")
    assert choice.id is not None
    assert said == f"created {file} with telemetry: {'true' if enabled else 'false'}"


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "empty",
        "not yaml",
        "a list",
        "two documents",
        "not text",
        "too large",
        "choice is a mapping",
        "a bomb of brackets",
    ],
)
def test_a_damaged_file_is_kept_under_another_name(file, name, enabled):
    """A choice can be made although the file is beyond repair, and what was in it is not lost."""
    raw = store(file, DAMAGED[name])
    said = write_choice("atopile", enabled=enabled)
    assert read_consent().mode == ("on" if enabled else "off")
    assert (file.parent / "telemetry.yaml.bak").read_bytes() == raw
    assert f"could not be understood and is now {file}.bak; wrote a new one: telemetry: " in said


def test_an_older_copy_is_not_overwritten(file):
    """A second damaged file gets a name of its own."""
    store(file.with_name("telemetry.yaml.bak"), "older")
    store(file, "")
    assert f"is now {file}.bak2;" in write_choice("atopile", enabled=False)
    assert file.with_name("telemetry.yaml.bak").read_text() == "older"


@pytest.mark.parametrize(
    "content",
    [f"id: {ID}\ntelemetry: |\n  yes\n", f"--- &top\nid: {ID}\n", f"id: {ID}\ntelemetry: &t yes\nother: *t\n"],
)
def test_what_cannot_be_edited_safely_is_replaced_under_the_same_id(file, content):
    """Where one value cannot be changed on its own, the old file is kept beside the new one."""
    raw = store(file, content)
    said = write_choice("atopile", enabled=False)
    assert "could not be edited safely" in said
    assert read_choice(str(file)).id == ID
    assert read_consent().mode == "off"
    assert file.with_name("telemetry.yaml.bak").read_bytes() == raw


def test_enabling_replaces_an_id_that_is_none(file):
    """A yes needs an id that can be read."""
    store(file, "telemetry: true\nid: 0b6c\n")
    write_choice("atopile", enabled=True)
    assert read_consent().mode == "on"
    assert uuid.UUID(read_consent().id)


@pytest.mark.posix("permission bits")
def test_mode_bits_survive(file):
    """A file that others may read stays so, and a private one stays private."""
    store(file, CANONICAL)
    for mode in (0o644, 0o640, 0o600):
        file.chmod(mode)
        write_choice("atopile", enabled=read_consent().mode != "on")
        assert stat.S_IMODE(file.stat().st_mode) == mode


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away")
def test_a_file_edited_by_root_stays_its_owners(file):
    """After `sudo … disable` the next run of the user can still read the file."""
    store(file, CANONICAL)
    os.chown(file, 12345, 12345)
    write_choice("atopile", enabled=False)
    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 12345)


@pytest.mark.posix("symbolic links")
def test_a_link_stays_a_link_when_edited(file, tmp_path):
    """The edit goes to the file behind a symbolic link, also when that does not exist yet."""
    target = tmp_path / "dotfiles" / "telemetry.yaml"
    file.parent.mkdir(parents=True)
    file.symlink_to(target)
    write_choice("atopile", enabled=False)
    assert file.is_symlink()
    assert read_choice(str(target)).state == "off"
    write_choice("atopile", enabled=True)
    assert file.is_symlink()
    assert read_choice(str(target)).state == "on"


@pytest.mark.posix("named pipes in a directory")
def test_nothing_but_a_regular_file_is_ever_replaced(file, tmp_path):
    """What a link leads to is reported, not replaced, when it is no file (a device, say, and root is asking)."""
    # A directory of the test's own stands for the device: if the guard were missing, nobody's machine would suffer.
    target = tmp_path / "not-a-file"
    target.mkdir()
    file.parent.mkdir(parents=True)
    file.symlink_to(target)
    with pytest.raises(ValueError, match="not a regular file"):
        write_choice("atopile", enabled=False)
    assert target.is_dir()
    assert sorted(os.listdir(tmp_path)) == ["home", "not-a-file"]
    assert os.listdir(file.parent) == ["telemetry.yaml"]


def test_an_interrupted_edit_leaves_the_old_file(file, monkeypatch):
    """When the new file cannot take its place, the old one is complete and nothing else is left."""
    raw = store(file, CANONICAL)

    def refuse(*_args, **_kwargs):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="busy"):
        write_choice("atopile", enabled=False)
    assert file.read_bytes() == raw
    assert files_below(file.parent) == ["telemetry.yaml"]


def test_a_choice_that_cannot_be_read_back_is_an_error(file, monkeypatch):
    """The command never claims a choice that the next run would not see."""
    store(file, CANONICAL)
    monkeypatch.setattr(edit_module._Place, "replace", lambda *_args: None)
    with pytest.raises(OSError, match="what can be read now is: telemetry: true in"):
        write_choice("atopile", enabled=False)


@pytest.mark.posix("the places of the XDG specification")
def test_a_choice_needs_a_place(file, monkeypatch, tmp_path):
    """Without a home directory, or with a file in the place of the directory, the error says what is wrong."""
    (tmp_path / "home" / ".config").write_text("")
    with pytest.raises(OSError, match=r"\.config"):
        write_choice("atopile", enabled=False)
    monkeypatch.setattr(edit_module, "choice_path", lambda _app: "")
    with pytest.raises(OSError, match="no home directory"):
        write_choice("atopile", enabled=False)


def test_an_edit_that_would_change_something_else_is_refused():
    """The edited text is parsed again: an anchor that others refer to is not removed."""
    with pytest.raises(ValueError):
        with_choice(b"telemetry: &t yes\nother: *t\n", enabled=False)


RACE = """
from atotelemetry.host.consent import TelemetryConfig, read_choice
from atotelemetry.host.edit import write_choice
what, path = sys.argv[1:]
meet()
if what == "run":
    TelemetryConfig.load("atopile")
else:
    try:
        write_choice("atopile", enabled=what == "enable")
    except OSError:
        pass  # it says so when another choice came right after its own
sys.stdout.write(f"{read_choice(path).state} ")
"""


@pytest.mark.parametrize("first", ["missing", "on"])
def test_a_no_against_first_runs_and_a_yes(file, first):
    """Whoever comes first, the file is whole, and no run undoes a no that was written after the last yes."""
    if first == "on":
        store(file, CANONICAL)
    for _ in range(3):
        words = ["run", "disable", "run", "enable", "run", "disable"]
        ended = [states.split() for states in run_at_once(RACE, *((word, str(file)) for word in words))]
        assert all(states and set(states) <= {"on", "off"} for states in ended), ended
        assert read_choice(str(file)).id is not None
        assert files_below(file.parent) == ["telemetry.yaml"]
        write_choice("atopile", enabled=False)
        assert identity() and read_consent().mode == "off"  # noqa: PT018 - a run, and what it left
        file.unlink()
