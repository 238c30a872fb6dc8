"""One configuration file: its place, its meaning, reading its plain form, creating a new one.

Runs in the host, on the thread that builds the `Telemetry`. A leaf: `consent` decides with it, `choice_yaml` reads any
other YAML, `edit` changes a file. It reads the file as we write it without PyYAML, whose import costs more than the
rest of a run. A new file appears complete or not at all, so first runs at once share one id. Nothing is created in a
home that is not the effective user's: root with a user's HOME would leave files that the user cannot change.
"""

from __future__ import annotations

import os
import stat
import sys

from atotelemetry.ids import canonical

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "MAX_FILE_BYTES",
    "NO_CHOICE",
    "OFF_WORDS",
    "ON_WORDS",
    "FileChoice",
    "beginning",
    "choice_path",
    "config_directory",
    "create",
    "file_content",
    "is_app_name",
    "may_create",
    "other_choice_paths",
    "read_bytes",
    "read_plain",
    "remove",
    "said",
    "write_beside",
    "write_new",
]

_FILE_NAME = "telemetry.yaml"
# No file of two keys is larger.
MAX_FILE_BYTES = 64 * 1024
# A person's words for yes and no, beyond YAML's booleans. Compared in lower case.
ON_WORDS = frozenset(("true", "yes", "on", "1", "y", "t", "enable", "enabled"))
OFF_WORDS = frozenset(("false", "no", "off", "0", "n", "f", "disable", "disabled", "never", "none"))
NO_CHOICE = "on by default: no telemetry key"


# ---- its place, for which no file is read or written


def is_app_name(app: object) -> bool:
    """Whether `app` may name an application: `[A-Za-z0-9][A-Za-z0-9._-]*`, and so no path."""
    is_text = isinstance(app, str) and app.isascii() and app[:1].isalnum()
    return is_text and all(letter.isalnum() or letter in "._-" for letter in str(app))


def config_directory(app: str) -> str:
    r"""Return the directory of `app`'s configuration, or "" without a home directory.

    `$XDG_CONFIG_HOME/<app>`, else `~/.config/<app>`, on Linux and macOS. Relative paths are ignored, as in the XDG base
    directory specification: nothing depends on the working directory. On Windows `%LOCALAPPDATA%\<app>\<app>`, the
    directory of `platformdirs.user_config_dir(app)`.
    """
    if sys.platform == "win32":
        base, profile = _absolute("LOCALAPPDATA"), _absolute("USERPROFILE")
        base = base or (profile and os.path.join(profile, "AppData", "Local"))
        return base and os.path.join(base, app, app)
    base = _absolute("XDG_CONFIG_HOME")
    if not base and (home := _home()):
        base = os.path.join(home, ".config")
    return base and os.path.join(base, app)


def choice_path(app: str) -> str:
    """Return the path of `app`'s `telemetry.yaml`, which may not exist; "" without a home directory."""
    directory = config_directory(app)
    return directory and os.path.join(directory, _FILE_NAME)


def other_choice_paths(app: str) -> list[str]:
    """Return further files where a no counts; we never write them.

    atopile's older place, and under sudo (sudo(8), SUDO_UID) the files of the invoking user.
    """
    if sys.platform == "win32":
        return []
    invoking = os.environ.get("SUDO_UID", "")
    other = _home_of(int(invoking)) if invoking.isdecimal() and int(invoking) != os.geteuid() else ""
    paths = [os.path.join(home, ".atopile", _FILE_NAME) for home in (_home(), other) if home and app == "atopile"]
    return [*paths, os.path.join(other, ".config", app, _FILE_NAME)] if other else paths


def may_create(path: str) -> bool:
    """Whether a file may be created at `path`: its existing directories are the effective user's.

    The home directory must exist, too, if the path lies below it.
    """
    if sys.platform == "win32":
        return bool(path)
    user = os.geteuid()
    try:
        if not _absolute("XDG_CONFIG_HOME") and os.stat(_home()).st_uid != user:
            return False
        place = os.path.dirname(path)
        while not os.path.lexists(place):
            place = os.path.dirname(place)
        # A directory of root's that an ordinary user can write to is everybody's, like /tmp.
        return os.stat(place).st_uid in (user, 0)
    except OSError:
        return False


def _absolute(variable: str) -> str:
    """Return the absolute path that a variable holds, or ""."""
    path = os.environ.get(variable, "")
    return path if os.path.isabs(path) else ""


def _home() -> str:
    """Return the user's home directory, or ""."""
    return _absolute("HOME") or _home_of(os.getuid())


def _home_of(user: int) -> str:
    """Return the home directory that the account database names for `user`, or ""."""
    try:
        import pwd  # POSIX only, and an ordinary run does without

        home = pwd.getpwuid(user).pw_dir
    except Exception:
        # No account for this user, as in containers that run under a bare number.
        return ""
    return home if os.path.isabs(home) else ""


# ---- its meaning


class FileChoice:
    """The meaning of one configuration file.

    `state` is "on", "off", "missing" (no file) or "damaged" (it cannot be understood). `detail` quotes the deciding
    words or names the damage; `line` counts from 1. `id` is in lower case with dashes.
    """

    __slots__ = ("detail", "id", "line", "state")

    def __init__(self, state: str, detail: str = "", line: int | None = None, id: str | None = None) -> None:
        self.state = state
        self.detail = detail
        self.line = line
        self.id = id

    def reason(self, path: str) -> str:
        """Name the deciding file and line, for people; `path` is the file this was read from."""
        if self.state == "missing":
            return "no file yet: on by default" if path else "no home directory to keep a choice in: on by default"
        where = f"{path}, line {self.line}" if self.line else path
        return f"damaged: {where}: {self.detail}" if self.state == "damaged" else f"{self.detail} in {where}"


def said(value: object) -> bool | None:
    """Return the meaning of a bool or of a person's word; None when it is neither yes nor no."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    return True if word in ON_WORDS else False if word in OFF_WORDS else None


def read_bytes(path: str) -> bytes | None:
    """Return the beginning of the regular file `path`, None when nothing has that name. Raises as `beginning`."""
    try:
        return beginning(path)
    except (FileNotFoundError, NotADirectoryError):
        _refuse_dangling_link(path)
        return None


def beginning(path: str) -> bytes:
    """Return the first MAX_FILE_BYTES of the regular file `path`, and one byte more if it is longer.

    Raises OSError when it cannot be read, ValueError when it is no regular file.
    """
    # Without O_NONBLOCK, opening a named pipe would wait for somebody to write into it.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        raw = b""
        while chunk := os.read(descriptor, MAX_FILE_BYTES + 1 - len(raw)):
            raw += chunk
        return raw
    finally:
        os.close(descriptor)


def read_plain(raw: bytes) -> FileChoice | None:
    """Read the plain form: lines of `id: UUID` and `telemetry: WORD`, each at most once, and comments.

    None for everything else. Every line must match, and none may be indented: nothing here can then mean anything else
    in YAML.
    """
    try:
        text = raw.decode("ascii")
    except UnicodeDecodeError:
        return None
    if not text.replace("\n", "").isprintable():
        return None
    found_id: str | None = None
    found: tuple[bool, str, int] | None = None
    for number, line in enumerate(text.split("\n"), 1):
        if not line or line[0] == "#":
            continue
        key, _, value = line.partition(": ")
        value = value.partition(" #")[0].strip(" ")
        if key == "telemetry" and found is None:
            choice = said(value)
            if choice is None:
                return None
            found = (choice, f"telemetry: {value}", number)
        elif key == "id" and found_id is None:
            found_id = canonical(value)
            if found_id is None or found_id != value.lower():
                return None
        else:
            return None
    if found is not None:
        return FileChoice("on" if found[0] else "off", found[1], found[2], found_id)
    return FileChoice("on", NO_CHOICE, None, found_id) if found_id is not None else None


def file_content(choice_id: str, *, enabled: bool) -> bytes:
    """Return the bytes of a new file. `read_plain` reads exactly this form, and atopile always wrote it."""
    return f"id: {choice_id}\ntelemetry: {'true' if enabled else 'false'}\n".encode("ascii")


def create(path: str, content: bytes, *, dir_fd: int | None = None, before: Callable[[], object] | None = None) -> bool:
    """Create the file `path` with `content`, complete or not at all; False when it exists already.

    `path` is relative to the open directory `dir_fd`, if there is one. `before` is called when the file can be written
    and has no name yet. Raises OSError when it cannot be written. Not synchronised: a first run does not wait for a
    disk. A file cut off by a power failure counts as opted out.
    """
    if dir_fd is None:
        # The XDG base directory specification asks for this mode.
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    temporary = write_beside(path, content, dir_fd=dir_fd)
    try:
        if before is not None:
            before()
        try:
            if os.name == "nt":
                os.rename(temporary, path)  # refuses to replace on Windows, and only there
            else:
                os.link(temporary, path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        except FileExistsError:
            raise
        except OSError:
            # A file system without hard links (FAT, some network and phone storage). Still exclusive, though a reader
            # may find the file empty for a moment; `_first_run` knows.
            write_new(path, content, dir_fd=dir_fd)
        return True
    except FileExistsError:
        return False
    finally:
        remove(temporary, dir_fd)


def write_beside(
    path: str, content: bytes, *, dir_fd: int | None = None, finish: Callable[[int], object] | None = None
) -> str:
    """Write `content` to a new private file beside `path`; return its name. For the rest see `write_new`."""
    # In the same directory, because only there is taking over the final name atomic.
    temporary = f"{path}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
    write_new(temporary, content, dir_fd=dir_fd, finish=finish)
    return temporary


def write_new(
    path: str, content: bytes, *, dir_fd: int | None = None, finish: Callable[[int], object] | None = None
) -> None:
    """Create the file `path` and fill it, or leave nothing. Raises OSError, also when it exists already.

    `finish` is called with the open descriptor at the end.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600, dir_fd=dir_fd)
    try:
        try:
            while content:
                content = content[os.write(descriptor, content) :]
            if finish is not None:
                finish(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        # An empty file would say "opted out" for ever.
        remove(path, dir_fd)
        raise


def _refuse_dangling_link(path: str) -> None:
    """Raise ValueError if `path`, or a directory on the way to it, is a link to nothing.

    For instance to an unmounted drive: there is a choice that we cannot see.
    """
    place = path
    while not os.path.exists(place):
        if os.path.islink(place):
            which = "" if place == path else f" {place}"
            raise ValueError(f"the target of the symbolic link{which} does not exist") from None
        place, below = os.path.dirname(place), place
        if place == below:
            return


def remove(path: str, dir_fd: int | None) -> None:
    """Remove a file of ours, if it is still there."""
    try:
        os.unlink(path, dir_fd=dir_fd)
    except OSError:
        # Gone already, or left behind: a stray small file harms nobody.
        return
