"""Other people's homes: nothing of ours is made there, and an edit by root cannot be led astray."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading

import pytest

from atotelemetry.host.choice import may_create
from atotelemetry.host.consent import read_consent, take_identity
from atotelemetry.host.edit import write_choice
from support_home import ID, files_below, fresh_home, store

SOMEBODY = 54321
as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may be somebody else")

RUN = """
import os, sys
from atotelemetry.host.consent import read_consent, take_identity  # the interpreter may lie where only root can read
user = int(sys.argv[1])
if user:
    os.setgid(user)
    os.setuid(user)
consent = read_consent("mytool")
first, again = take_identity("mytool", consent), take_identity("mytool", read_consent("mytool"))
print(consent.mode, first == again, first)
"""


@pytest.fixture
def home(monkeypatch, tmp_path):
    fresh_home(monkeypatch, tmp_path)
    return tmp_path / "home"


def run_as(user, home, **variables):
    """Run a program as another user; return its mode, whether it has one id, and the id."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), **variables}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(user)],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.split()


def owners(directory):
    return {path.stat().st_uid for path in directory.rglob("*")}


def open_to_all(path):
    """Let another user come as far as `path`."""
    while path.stat().st_uid == os.geteuid() and path != path.parent:
        if path.stat().st_mode & 0o055 != 0o055 and path.name.startswith(("pytest", "test", "popen")):
            path.chmod(path.stat().st_mode | 0o055)
        path = path.parent


@as_root
def test_roots_run_in_a_users_home_makes_nothing(home):
    """Sudo with the user's HOME: on, with a random id for the run, and nothing of root's is there."""
    os.chown(home, SOMEBODY, SOMEBODY)
    assert run_as(0, home)[:2] == ["on", "True"]
    assert files_below(home) == []
    assert not (home / ".config").exists()


@as_root
def test_roots_run_obeys_the_users_file(home):
    """Reading still works, both for the id and for a no."""
    file = home / ".config" / "mytool" / "telemetry.yaml"
    raw = store(file, f"id: {ID}\ntelemetry: true\n")
    for path in (home, *home.rglob("*")):
        os.chown(path, SOMEBODY, SOMEBODY)
    assert run_as(0, home) == ["on", "True", ID]
    assert file.read_bytes() == raw
    assert owners(home) == {SOMEBODY}
    file.write_text("telemetry: false\n")
    assert run_as(0, home) == ["off", "True", "None"]


@as_root
def test_a_users_own_run_makes_the_users_own_file(home, tmp_path):
    """The counter-check: in one's own home the file is created, and is one's own."""
    open_to_all(tmp_path)
    os.chown(home, SOMEBODY, SOMEBODY)
    mode, same, made = run_as(SOMEBODY, home)
    assert (mode, same) == ("on", "True")
    file = home / ".config" / "mytool" / "telemetry.yaml"
    assert made in file.read_text()
    assert owners(home) == {SOMEBODY}


@as_root
def test_a_user_in_roots_home_makes_nothing(home, tmp_path):
    """Also where the permissions would allow it."""
    open_to_all(tmp_path)
    home.chmod(0o777)
    assert run_as(SOMEBODY, home)[:2] == ["on", "True"]
    assert files_below(home) == []


def test_no_home_is_made_where_there_is_none(home, tmp_path, monkeypatch):
    """A service account's HOME that does not exist stays so."""
    monkeypatch.setenv("HOME", str(tmp_path / "nonexistent" / "me"))
    consent = read_consent("mytool")
    assert (consent.mode, len(take_identity("mytool", consent))) == ("on", 36)
    assert not (tmp_path / "nonexistent").exists()


@as_root
def test_a_configuration_directory_of_somebody_else(home, tmp_path, monkeypatch):
    """The same where XDG_CONFIG_HOME leads into another user's directory."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(theirs / ".config"))
    assert may_create(str(theirs / ".config" / "mytool" / "telemetry.yaml"))
    os.chown(theirs, SOMEBODY, SOMEBODY)
    assert not may_create(str(theirs / ".config" / "mytool" / "telemetry.yaml"))


# sudo, and atopile's older place


@pytest.fixture
def invoking(monkeypatch, tmp_path):
    """Make us look as if a user with a home in the test's directory had called sudo; return that home."""
    import pwd

    real = pwd.getpwuid
    their_home = tmp_path / "theirs"
    their_home.mkdir()

    def account(user):
        if user == SOMEBODY:
            return pwd.struct_passwd(("al", "x", SOMEBODY, SOMEBODY, "", str(their_home), "/bin/sh"))
        return real(user)

    monkeypatch.setattr(pwd, "getpwuid", account)
    monkeypatch.setenv("SUDO_UID", str(SOMEBODY))
    return their_home


@pytest.mark.posix("sudo")
@pytest.mark.parametrize(("content", "mode"), [("telemetry: false\n", "off"), ("enabled: false\n", "off")])
def test_under_sudo_the_invoking_users_no_counts(home, invoking, content, mode):
    """Their file is read, never written; their yes is none for root, and changes nothing."""
    assert read_consent("mytool").mode == "on"
    file = invoking / ".config" / "mytool" / "telemetry.yaml"
    raw = store(file, content)
    consent = read_consent("mytool")
    assert (consent.mode, str(file) in consent.reason) == (mode, True)
    assert file.read_bytes() == raw
    store(file, f"id: {ID}\ntelemetry: true\n")
    assert (read_consent("mytool").mode, read_consent("mytool").id) == ("on", None)


@pytest.mark.parametrize("value", ["", "x", "-1", "99999999999"])
def test_an_odd_sudo_variable_says_nothing(home, monkeypatch, value):
    """It is a number of an account, or it is ignored."""
    monkeypatch.setenv("SUDO_UID", value)
    assert read_consent("mytool").mode == "on"


@pytest.mark.posix("the places of the XDG specification")
@pytest.mark.parametrize(("content", "mode"), [("telemetry: false\n", "off"), (f"telemetry: true\nid: {ID}\n", "on")])
def test_atopiles_older_place(home, content, mode):
    """A no in ~/.atopile/telemetry.yaml counts for atopile alone; the file stays where and as it is."""
    file = home / ".atopile" / "telemetry.yaml"
    raw = store(file, content)
    assert read_consent("atopile").mode == mode
    assert read_consent("mytool").mode == "on"
    assert file.read_bytes() == raw
    assert files_below(home) == [".atopile/telemetry.yaml"]


# An edit by root


@pytest.fixture
def theirs(home):
    """Make HOME another user's, with a file that says yes; return the file."""
    file = home / ".config" / "mytool" / "telemetry.yaml"
    store(file, f"id: {ID}\ntelemetry: true\n")
    for path in (home, *home.rglob("*")):
        os.chown(path, SOMEBODY, SOMEBODY)
    return file


@as_root
def test_root_may_say_no_for_a_user(theirs, home):
    """`sudo mytool telemetry disable` with the user's HOME: their file says no, and is still theirs."""
    theirs.chmod(0o640)
    write_choice("mytool", enabled=False)
    assert theirs.read_text() == f"id: {ID}\ntelemetry: false\n"
    assert owners(home) == {SOMEBODY}
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o640
    assert files_below(home) == [".config/mytool/telemetry.yaml"]


@as_root
def test_root_makes_no_file_for_a_user(theirs, home):
    """Where they have none, the answer says who has to be asked."""
    theirs.unlink()
    with pytest.raises(PermissionError, match="another user's home; run this as that user"):
        write_choice("mytool", enabled=False)
    assert files_below(home) == []
    store(theirs, "{[")
    os.chown(theirs, SOMEBODY, SOMEBODY)
    with pytest.raises(ValueError, match="another user's"):
        write_choice("mytool", enabled=False)
    assert files_below(home) == [".config/mytool/telemetry.yaml"]


@as_root
@pytest.mark.parametrize("link", ["file", "mytool", ".config"])
def test_root_follows_no_link_of_a_user(theirs, home, tmp_path, link):
    """A link of theirs to a file or a directory of root's leads nowhere."""
    private = tmp_path / "private"
    secret = private / "mytool" / "telemetry.yaml"
    raw = store(secret, "telemetry: true\n# root's own\n")
    place = {"file": theirs, "mytool": theirs.parent, ".config": theirs.parent.parent}[link]
    target = {"file": secret, "mytool": secret.parent, ".config": private}[link]
    place.rename(home / "away")
    place.symlink_to(target)
    with pytest.raises(OSError, match=r"safely|symbolic"):
        write_choice("mytool", enabled=False)
    assert secret.read_bytes() == raw
    assert secret.stat().st_uid == 0
    assert files_below(private) == ["mytool/telemetry.yaml"]


@as_root
def test_a_race_hands_no_file_of_roots_to_a_user(theirs, tmp_path):
    """While root edits, the user swaps file and link: root's text never appears in a file of theirs."""
    secret = tmp_path / "secret"
    store(secret, "telemetry: true\npassword: root's own\n")
    secret.chmod(0o600)
    over = threading.Event()
    spare = theirs.with_name("spare")

    def swap():
        while not over.is_set():
            spare.unlink(missing_ok=True)
            spare.symlink_to(secret)
            os.replace(spare, theirs)
            spare.write_text(f"id: {ID}\ntelemetry: true\n")
            os.chown(spare, SOMEBODY, SOMEBODY)
            os.replace(spare, theirs)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for number in range(150):
            try:
                write_choice("mytool", enabled=bool(number % 2))
            except (OSError, ValueError):
                continue
    finally:
        over.set()
        swapper.join()
    assert secret.stat().st_uid == 0
    for path in theirs.parent.iterdir():
        if path.lstat().st_uid == SOMEBODY and not path.is_symlink():
            assert "password" not in path.read_text()


@pytest.mark.posix("symbolic links")
def test_a_link_of_ones_own_is_followed(home, tmp_path):
    """Dotfile managers keep one there: at home nobody else could have put it."""
    target = tmp_path / "dotfiles" / "telemetry.yaml"
    store(target, f"id: {ID}\ntelemetry: true\n")
    file = home / ".config" / "mytool" / "telemetry.yaml"
    file.parent.mkdir(parents=True)
    file.symlink_to(target)
    write_choice("mytool", enabled=False)
    assert target.read_text() == f"id: {ID}\ntelemetry: false\n"
    assert file.is_symlink()


@as_root
def test_a_link_into_somebody_elses_directory_is_not_followed(home, tmp_path):
    """At home, too, root does not write where another user could exchange the file."""
    target = tmp_path / "theirs" / "telemetry.yaml"
    raw = store(target, f"id: {ID}\ntelemetry: true\n")
    os.chown(target.parent, SOMEBODY, SOMEBODY)
    file = home / ".config" / "mytool" / "telemetry.yaml"
    file.parent.mkdir(parents=True)
    file.symlink_to(target)
    with pytest.raises(PermissionError, match="belongs to another user"):
        write_choice("mytool", enabled=False)
    assert target.read_bytes() == raw
