"""Where a person's choice lies, and whether this process may write there.

Runs in the host. A leaf: only path names and `stat`, no file is read or written here. Nothing is created in a home that
is not the effective user's: root with a user's HOME would leave files that the user cannot change.
"""

from __future__ import annotations

import os
import sys

from atotelemetry.host.choice import FILE_NAME

__all__ = [
    "choice_path",
    "config_directory",
    "is_app_name",
    "may_create",
    "other_choice_paths",
]

_PUNCTUATION = "._-"


def is_app_name(app: object) -> bool:
    """Whether `app` may name an application: `[A-Za-z0-9][A-Za-z0-9._-]*`, and so no path."""
    if not isinstance(app, str) or not app.isascii() or not app[:1].isalnum():
        return False
    return all(letter.isalnum() or letter in _PUNCTUATION for letter in app)


def config_directory(app: str) -> str:
    r"""Return the directory of `app`'s configuration, or "" without a home directory.

    `$XDG_CONFIG_HOME/<app>`, else `~/.config/<app>`, on Linux and macOS. Relative paths are ignored, as in the XDG base
    directory specification: nothing depends on the working directory. On Windows `%LOCALAPPDATA%\<app>\<app>`, the
    directory of `platformdirs.user_config_dir(app)`.
    """
    if sys.platform == "win32":
        return _windows_directory(app)
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):
        home = _home()
        if not home:
            return ""
        base = os.path.join(home, ".config")
    return os.path.join(base, app)


def choice_path(app: str) -> str:
    """Return the path of `app`'s `telemetry.yaml`, which may not exist; "" without a home directory."""
    directory = config_directory(app)
    return os.path.join(directory, FILE_NAME) if directory else ""


def other_choice_paths(app: str) -> list[str]:
    """Return further files where a no counts; we never write them.

    atopile's older place, and under sudo (sudo(8), SUDO_UID) the files of the invoking user.
    """
    if sys.platform == "win32":
        return []
    homes = [(_home(), False)]
    invoking = os.environ.get("SUDO_UID", "")
    if invoking.isdecimal() and int(invoking) != os.geteuid():
        homes.append((_home_of(int(invoking)), True))
    paths = []
    for home, is_anothers in homes:
        if is_anothers and home:
            paths.append(os.path.join(home, ".config", app, FILE_NAME))
        if app == "atopile" and home:
            paths.append(os.path.join(home, ".atopile", FILE_NAME))
    return paths


def may_create(path: str) -> bool:
    """Whether a file may be created at `path`: its existing directories are the effective user's.

    The home directory must exist, too, if the path lies below it.
    """
    if sys.platform == "win32":
        return bool(path)
    user = os.geteuid()
    try:
        if not os.path.isabs(os.environ.get("XDG_CONFIG_HOME", "")) and os.stat(_home()).st_uid != user:
            return False
        place = os.path.dirname(path)
        while not os.path.lexists(place):
            place = os.path.dirname(place)
        # A directory of root's that an ordinary user can write to is everybody's, like /tmp.
        return os.stat(place).st_uid in (user, 0)
    except OSError:
        return False


def _home() -> str:
    """Return the user's home directory as an absolute path, or ""."""
    home = os.environ.get("HOME", "")
    return home if os.path.isabs(home) else _home_of(os.getuid())


def _home_of(user: int) -> str:
    """Return the home directory that the account database names for `user`, or ""."""
    try:
        import pwd  # POSIX only, and an ordinary run does without

        home = pwd.getpwuid(user).pw_dir
    except Exception:
        # No account for this user, as in containers that run under a bare number.
        return ""
    return home if os.path.isabs(home) else ""


def _windows_directory(app: str) -> str:
    """Return `app`'s configuration directory on Windows, or ""."""
    base = os.environ.get("LOCALAPPDATA", "")
    if not os.path.isabs(base):
        profile = os.environ.get("USERPROFILE", "")
        if not os.path.isabs(profile):
            return ""
        base = os.path.join(profile, "AppData", "Local")
    return os.path.join(base, app, app)
