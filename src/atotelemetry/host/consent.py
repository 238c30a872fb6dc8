"""May this person's run be measured, and under which random id: environment variables and `telemetry.yaml`.

Runs in the host, on the thread that builds the `Telemetry`, once a run. Reading never writes and never raises: what
cannot be understood counts as "no". The file as we write it is read by `choice`; every other YAML (flow style, quotes,
document markers, …) by `choice_yaml`, because importing PyYAML costs more than all the rest of a run.
"""

from __future__ import annotations

import os
import sys

from atotelemetry.host.choice import (
    FILE_NAME,
    OFF_WORDS,
    ON_WORDS,
    FileChoice,
    create,
    file_content,
    read_bytes,
    read_plain,
    said,
)
from atotelemetry.host.debug import debug
from atotelemetry.ids import canonical, uuid4

TYPE_CHECKING = False
if TYPE_CHECKING:
    import uuid
    from typing import Any

__all__ = [
    "Consent",
    "TelemetryConfig",
    "config_directory",
    "environment_prefix",
    "identity",
    "read_choice",
    "read_consent",
]

# https://consoledonottrack.com names only "1"; these few values are the ones that people set to take it back.
_TRACKING_ALLOWED = frozenset(("", "0", "false", "no", "off"))

# Random ids of this process, by application, for when there is no file to keep one in.
_run_ids: dict[str, str] = {}


class Consent:
    """What was decided for this run, and why.

    `enabled` is False only for mode "off". `mode` is "off", "on" or "log" (events are shown, nothing is sent).
    `reason` tells a person which variable, or which file and line, decided. `path` is the configuration file, whether
    it exists or not; empty when the user has no home directory. `id` is the id in the file, None when the file has none
    or was not looked at because a variable had already said no.
    """

    __slots__ = ("enabled", "id", "mode", "path", "reason")

    def __init__(self, mode: str, reason: str, path: str, id: str | None = None) -> None:  # noqa: A002 - the file's key
        self.enabled = mode != "off"
        self.mode = mode
        self.reason = reason
        self.path = path
        self.id = id

    def __repr__(self) -> str:
        return f"Consent(mode={self.mode!r}, reason={self.reason!r}, path={self.path!r}, id={self.id!r})"


class TelemetryConfig:
    """The content of `telemetry.yaml`, as atopile has it: `telemetry`, a bool, and `id`, a `uuid.UUID`.

    `telemetry=None` means True, `id=None` a new random id. A word such as "no" is understood as in the file; what is
    not understood counts as False. An `id` that is no UUID raises ValueError, as `uuid.UUID` does.
    """

    __slots__ = ("_id", "telemetry")
    __hash__ = None  # type: ignore[assignment]  # mutable, and equal by value

    def __init__(self, telemetry: object = None, id: object = None) -> None:  # noqa: A002 - the file's key
        self.telemetry = True if telemetry is None else said(telemetry) is True
        self.id = id

    @property
    def id(self) -> uuid.UUID:
        """The random id that stands for this installation; accepts a UUID, its text, or None for a new one."""
        # Importing uuid takes milliseconds, and the events carry the text: only who asks for the object pays.
        from uuid import UUID

        return UUID(self._id)

    @id.setter  # noqa: A003 - the file's key
    def id(self, value: object) -> None:
        text = uuid4() if value is None else canonical(str(value))
        if text is None:
            raise ValueError(f"not a UUID: {value!r}")
        self._id = text

    def to_dict(self) -> dict[str, Any]:
        """Return `{"id": text, "telemetry": bool}`, the file's two keys."""
        return {"id": self._id, "telemetry": self.telemetry}

    @classmethod
    def load(cls, app: str = "atopile") -> TelemetryConfig:
        """Read what applies to this run, environment included, for `app`; never raises.

        Creates the file at the very first run, unless the user opted out.
        """
        consent = read_consent(app)
        if consent.enabled:
            return cls(telemetry=True, id=identity(app, consent))
        # A variable that says no was answered without a look at the file; who asks for the id wants the file's.
        return cls(telemetry=False, id=consent.id or read_choice(consent.path).id or _run_id(app))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TelemetryConfig):
            return NotImplemented
        return self.telemetry == other.telemetry and self._id == other._id

    def __repr__(self) -> str:
        return f"TelemetryConfig(telemetry={self.telemetry!r}, id={self._id!r})"


def environment_prefix(app: str) -> str:
    """Return what the names of `app`'s environment variables begin with: ATO for atopile, MY_TOOL for "my-tool"."""
    if app == "atopile":
        return "ATO"
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in app.upper())


def config_directory(app: str = "atopile") -> str:
    r"""Return the directory that holds `app`'s configuration, or "" when this user has no home directory at all.

    `$XDG_CONFIG_HOME/<app>`, else `~/.config/<app>`, on Linux and macOS. The XDG base directory specification has
    relative paths ignored; the home directory is held to the same, so that nothing depends on the working directory.
    On Windows `%LOCALAPPDATA%\<app>\<app>`, which is where `platformdirs.user_config_dir(app)` points.
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


def read_consent(app: str = "atopile") -> Consent:
    """Decide for this run: `DO_NOT_TRACK`, then `<PREFIX>_TELEMETRY`, then the file, then on.

    Writes nothing and never raises. A value of the second variable that is neither off, on nor log (or a synonym)
    counts as off: somebody tried to say something. An empty variable is an unset one.
    """
    path = ""
    try:
        directory = config_directory(app)
        path = os.path.join(directory, FILE_NAME) if directory else ""
        tracking = os.environ.get("DO_NOT_TRACK", "")
        if tracking.strip().lower() not in _TRACKING_ALLOWED:
            return Consent("off", f"DO_NOT_TRACK={_shown(tracking)}", path)
        name = f"{environment_prefix(app)}_TELEMETRY"
        value = os.environ.get(name, "")
        word = value.strip().lower()
        if word in OFF_WORDS:
            return Consent("off", f"{name}={_shown(value)}", path)
        if word and word != "log" and word not in ON_WORDS:
            reason = f"{name}={_shown(value)} is none of off, on and log"
            debug("telemetry is off: %s", reason)
            return Consent("off", reason, path)
        choice = read_choice(path)
        if word:
            return Consent("log" if word == "log" else "on", f"{name}={_shown(value)}", path, choice.id)
        reason = choice.reason(path)
        if choice.state == "damaged":
            debug("telemetry is off: %s", reason)
        return Consent("on" if choice.state in ("on", "missing") else "off", reason, path, choice.id)
    except Exception as error:
        # Whatever went wrong, nobody agreed to anything.
        reason = f"damaged: {type(error).__name__} while reading {path or FILE_NAME}"
        debug("telemetry is off: %s", reason)
        return Consent("off", reason, path)


def identity(app: str = "atopile", consent: Consent | None = None) -> str:
    """Return the id of a user who did not opt out, creating the file at the very first run. Never raises.

    Of many first runs at once one creates the file, and all return its id. Where no file can be written, or where a
    file exists that names no id (it is the user's; we never rewrite it), the id is random and lasts as long as this
    process. The same in mode "log", which sends nothing and therefore leaves nothing behind, and when opted out.
    """
    try:
        if consent is None:
            consent = read_consent(app)
        if consent.id is not None:
            return consent.id
        if consent.mode == "on" and consent.path:
            if not os.path.lexists(consent.path):
                return _first_run(consent.path)
            # Made by another first run since this one looked. Or a name that holds no id (also a link to nothing): that
            # is the user's, and stays as it is.
            made = read_choice(consent.path).id
            if made is not None:
                return made
    except Exception as error:
        debug("telemetry keeps no id: %s", error)
    return _run_id(app)


def read_choice(path: str) -> FileChoice:
    """Read the configuration file at `path` (an empty path is no file); never raises.

    Anything in its place that cannot be read or understood is "damaged", never "missing".
    """
    if not path:
        return FileChoice("missing")
    try:
        raw = read_bytes(path)
        if raw is None:
            return FileChoice("missing")
        choice = read_plain(raw)
        if choice is None:
            # PyYAML takes tens of milliseconds to import: only files that a person edited by hand pay for it.
            from atotelemetry.host.choice_yaml import interpret

            choice = interpret(raw)
        return choice
    except OSError as error:
        return FileChoice("damaged", f"{error.strerror or type(error).__name__}")
    except ValueError as error:
        return FileChoice("damaged", str(error))
    except Exception as error:
        return FileChoice("damaged", f"{type(error).__name__}: {error}")


def _home() -> str:
    """Return the user's home directory as an absolute path, or ""."""
    home = os.environ.get("HOME", "")
    if os.path.isabs(home):
        return home
    try:
        import pwd  # POSIX only, and only who has no HOME needs it

        home = pwd.getpwuid(os.getuid()).pw_dir
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


def _first_run(path: str) -> str:
    """Create the file for a new user and return the id in it, ours or that of whoever was quicker. Raises OSError."""
    new_id = uuid4()
    if create(path, file_content(new_id, enabled=True)):
        return new_id
    for _ in range(50):
        choice = read_choice(path)
        if choice.id is not None:
            return choice.id
        # Only where there are no hard links: the winner has created the file and is about to write its two lines.
        from time import sleep

        sleep(0.002)
    raise OSError("another process created the file but no id appeared in it")


def _run_id(app: str) -> str:
    """Return the random id that stands for the user of `app` as long as this process lives."""
    # setdefault, so that two threads that ask first get one answer.
    return _run_ids.get(app) or _run_ids.setdefault(app, uuid4())


def _shown(value: str) -> str:
    """Return a variable's value as it can be printed on one line."""
    cut = value if len(value) <= 40 else value[:39] + "…"  # noqa: PLR2004 - enough to recognise it
    return cut if cut.isprintable() else ascii(cut)
