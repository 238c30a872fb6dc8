"""May this person's run be measured, and under which random id: variables, a project's no, `telemetry.yaml`, CI.

Runs in the host, on the thread that builds the `Telemetry`, once a run; `Consent.holds` runs on the feeder's thread.
Reading never writes and never raises: a file that makes no sense counts as "no". `choice` reads the file as we write
it, and `choice_yaml` any other YAML: importing PyYAML costs more than the rest of a run.
"""

from __future__ import annotations

import os
from time import monotonic, sleep

from atotelemetry.facts.text import environment_prefix, printable, shortened
from atotelemetry.host.choice import (
    MAX_FILE_BYTES,
    OFF_WORDS,
    ON_WORDS,
    FileChoice,
    beginning,
    choice_path,
    create,
    file_content,
    is_app_name,
    may_create,
    other_choice_paths,
    read_bytes,
    read_plain,
    said,
)
from atotelemetry.host.debug import debug
from atotelemetry.ids import canonical, uuid4

TYPE_CHECKING = False
if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator
    from typing import Any

__all__ = ["Consent", "TelemetryConfig", "choice_in", "read_choice", "read_consent", "take_identity"]

LOOK_AGAIN = 60.0
"""How often, at most, a long-lived host looks whether the file says no by now."""

# https://consoledonottrack.com names only "1"; these few values are the ones that people set to take it back.
_NOT_SET = frozenset(("", "0", "false", "no", "off"))
_SWITCHES = ("_TELEMETRY_DISABLED", "_TELEMETRY_OPTOUT", "_NO_TELEMETRY", "_DISABLE_TELEMETRY")
# How far up a project's no is looked for.
_PROJECT_LEVELS = 10

# Random ids of this process, by application, for when there is no file to keep one in.
_run_ids: dict[str, str] = {}
# Files that this very run created beside its notice: they allow the next run, not this one.
announced: set[str] = set()


class Consent:
    """The decision for this run, and its reason. A yes may become a no, never the other way.

    `enabled`: whether events are taken, in mode "on" or in mode "log", which shows them and sends nothing. The other
    modes are "off" and "waiting" (for the notice that a run at a terminal prints before the first run sends). `reason`
    tells a person which variable, or which file and line, decided. `path` is the configuration file, which may not
    exist. It is empty without a home directory, and when a variable said no first. `id` is the id in the file, if one
    was found. `creates`: a first run may create the file without a notice.
    `withdrawn`: it was a yes, until the file said no.
    """

    __slots__ = ("_looked_at", "_seen", "by_variable", "creates", "id", "mode", "path", "reason", "withdrawn")

    def __init__(
        self,
        mode: str,
        reason: str,
        path: str = "",
        id: str | None = None,
        *,
        by_variable: bool = False,
        creates: bool = True,
    ) -> None:
        self.mode = mode
        self.reason = printable(reason)
        self.path = path
        self.id = id
        self.by_variable = by_variable
        self.creates = creates
        self.withdrawn = False
        self._looked_at = 0.0
        self._seen: tuple[int, ...] | None = None

    @property
    def enabled(self) -> bool:
        """Whether events are taken."""
        return self.mode in ("on", "log")

    def read_again(self) -> FileChoice:
        """Read the file again, and obey it if it says no by now. A variable's yes stays, whatever the file says."""
        self._looked_at = monotonic()
        self._seen = _signature(self.path)
        choice = read_choice(self.path)
        if self.mode == "on" and not self.by_variable:
            self.obey(choice)
        return choice

    def obey(self, choice: FileChoice) -> None:
        """Be off from here on if `choice` is no yes."""
        gone = choice.state == "missing" and not self.creates
        if gone or choice.state in ("off", "damaged"):
            self.mode, self.withdrawn = "off", True
            self.reason = printable(f"{self.path} is gone" if gone else choice.reason(self.path))
            debug("telemetry is off: %s", self.reason)

    def holds(self) -> bool:
        """Whether the person still agrees. Looks at the file at most once a minute, and only if it decides."""
        if self.mode != "on" or self.by_variable or not self.path:
            return self.enabled
        if monotonic() - self._looked_at >= LOOK_AGAIN:
            self._looked_at = monotonic()
            if _signature(self.path) != self._seen:
                self.read_again()
        return self.enabled

    def file(self) -> tuple[str, tuple[int, ...] | None] | None:
        """Return the file that said yes, and its state then, as `wire.Watch` has it; None if no file decides."""
        if self.mode != "on" or self.by_variable or not self.path.isprintable():
            return None
        if _signature(self.path) != self._seen:  # such as by our own first run
            self.read_again()
        return self.path, self._seen if self.enabled else ()


class TelemetryConfig:
    """The content of `telemetry.yaml`, as atopile has it: `telemetry`, a bool, and `id`, a `uuid.UUID`.

    `telemetry=None` means True, `id=None` a new random id. Words such as "no" mean the same as in the file; an unknown
    one counts as False. An `id` that is no UUID raises ValueError, as `uuid.UUID` does.
    """

    __slots__ = ("_id", "telemetry")
    __hash__ = None  # type: ignore[assignment]  # mutable, and equal by value

    def __init__(self, telemetry: object = None, id: object = None) -> None:
        self.telemetry = True if telemetry is None else said(telemetry) is True
        self.id = id

    @property
    def id(self) -> uuid.UUID:
        """The installation's random id. Takes a UUID, its text, or None for a new one."""
        # Importing uuid takes milliseconds, and events only need the text.
        from uuid import UUID

        return UUID(self._id)

    @id.setter
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
        """Read the choice for this run of `app`, environment included; never raises.

        Creates the file at the very first run, unless the user opted out.
        """
        consent = read_consent(app)
        known = take_identity(app, consent) if consent.enabled else None
        if known is not None:
            return cls(telemetry=True, id=known)
        # A variable's no was answered without reading the file, but this caller wants the file's id.
        path = choice_path(app) if is_app_name(app) else ""
        return cls(telemetry=False, id=consent.id or read_choice(path).id or _run_id(app))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TelemetryConfig):
            return NotImplemented
        return self.telemetry == other.telemetry and self._id == other._id

    def __repr__(self) -> str:
        return f"TelemetryConfig(telemetry={self.telemetry!r}, id={self._id!r})"


def read_consent(app: str = "atopile", *, in_ci: bool = False, notice: bool = False) -> Consent:
    """Decide for this run: variables, then a project's no, then the file, then CI, then on.

    `in_ci`: runs in CI are measured, too. `notice`: no file, nothing sent. Writes nothing and never raises.
    """
    path = ""
    try:
        if not is_app_name(app):
            return _off(f"{app!r} is not the name of an application")
        decided = _said_by_variables(app)
        if decided is not None and not decided.enabled:
            return decided  # before anybody's home is looked at
        path = choice_path(app)
        choice = read_choice(path)
        if decided is not None:
            decided.path, decided.id, decided.creates = path, choice.id, not notice
            return decided
        reason = _project_no(app) or _file_no(app, path, choice) or _ci_no(app, in_ci=in_ci)
        if reason:
            return _off(reason, path, choice.id)
        if notice and (choice.state == "missing" or path in announced):
            reason = "waiting for the notice, which a first run at a terminal prints; nothing is sent before"
            return Consent("waiting", reason, path, creates=False)
        return Consent("on", choice.reason(path), path, choice.id, creates=not notice)
    except Exception as error:
        # Nobody agreed to anything.
        return _off(f"damaged: {type(error).__name__} while reading {path or 'the configuration'}", path)


def take_identity(app: str, consent: Consent) -> str | None:
    """Return the id for this run's events, creating the file at the very first run; None if the file says no by now.

    Of many first runs at once one creates the file, and all return its id. Where no file may be written, or the user's
    file has no id (we never rewrite it), the id is random and lasts as long as this process. The same in mode "log",
    which sends nothing and therefore leaves nothing behind. Never raises.
    """
    try:
        choice = consent.read_again()
        if consent.mode == "on" and choice.state == "missing" and consent.creates and may_create(consent.path):
            choice = _first_run(consent.path)
            if not consent.by_variable:
                consent.obey(choice)
        consent.id = choice.id or consent.id
    except Exception as error:
        debug("telemetry keeps no id: %s", error)
    return (consent.id or _run_id(app)) if consent.enabled else None


def read_choice(path: str) -> FileChoice:
    """Read the configuration file at `path` (an empty path is no file); never raises.

    Anything in its place that cannot be read or understood is "damaged", never "missing".
    """
    if not path:
        return FileChoice("missing")
    try:
        raw = read_bytes(path)
        return FileChoice("missing") if raw is None else choice_in(raw)
    except OSError as error:
        return FileChoice("damaged", f"{error.strerror or type(error).__name__}")
    except ValueError as error:
        return FileChoice("damaged", str(error))


def choice_in(raw: bytes) -> FileChoice:
    """Return the meaning of a configuration file's content; never raises."""
    if len(raw) > MAX_FILE_BYTES:
        return FileChoice("damaged", f"larger than {MAX_FILE_BYTES} bytes")
    try:
        plain = read_plain(raw)
        if plain is not None:
            return plain
        # PyYAML takes tens of milliseconds to import. Only files edited by hand need it.
        from atotelemetry.host.choice_yaml import interpret

        return interpret(raw)
    except Exception as error:
        return FileChoice("damaged", f"{type(error).__name__}: {error}")


def _off(reason: str, path: str = "", known_id: str | None = None) -> Consent:
    consent = Consent("off", reason, path, known_id)
    debug("telemetry is off: %s", consent.reason)
    return consent


def _said_by_variables(app: str) -> Consent | None:
    """Return the environment's decision, None if it makes none. One no outweighs any yes.

    Names and values count in any case of letters. Empty variables are unset ones. Any value but on, log or a synonym
    counts as off.
    """
    prefixes = ("ATO", "ATOPILE") if app == "atopile" else (environment_prefix(app),)
    # The second is set by our plugin for pytest.
    switches = {"DO_NOT_TRACK", "ATOTELEMETRY_OFF", *(prefix + switch for prefix in prefixes for switch in _SWITCHES)}
    choices = {f"{prefix}_TELEMETRY" for prefix in prefixes}
    if app == "atopile":
        choices.add("FBRK_TELEMETRY")  # its own flag
    yes, ours = None, switches | choices
    for name in sorted(name for name in os.environ if name.upper() in ours):
        value = os.environ.get(name, "")
        word = value.strip().lower()
        said_here = f"{name}={shortened(value)}"
        if name.upper() in switches:
            if word not in _NOT_SET:
                return _off(said_here)
        elif word in OFF_WORDS:
            return _off(said_here)
        elif word == "log":
            yes = Consent("log", said_here, by_variable=True)
        elif word in ON_WORDS:
            yes = yes or Consent("on", said_here, by_variable=True)
        elif word:
            return _off(f"{said_here} is none of off, on and log")
    return yes


def _file_no(app: str, path: str, choice: FileChoice) -> str:
    """Return the file that says no, or "": the user's own, atopile's older one, or the sudo user's."""
    if choice.state in ("off", "damaged"):
        return choice.reason(path)
    for other in other_choice_paths(app):
        # An unreadable file says nothing.
        if os.access(other, os.R_OK) and read_choice(other).state in ("off", "damaged"):
            return f"{other} says no, or cannot be understood"
    return ""


def _ci_no(app: str, *, in_ci: bool) -> str:
    value = os.environ.get("CI", "")
    # atopile's own rule is `not os.getenv("CI")`.
    unset = value == "" if app == "atopile" else value.strip().lower() in ("", "0", "false")
    return "" if in_ci or unset else f"CI={shortened(value)}: not in CI, unless {environment_prefix(app)}_TELEMETRY=on"


def _project_no(app: str) -> str:
    """Return the project file that says no for everybody who works there, or ""."""
    for path, raw in _project_files(app):
        # The bytes first: a project that does not speak of this telemetry costs no parser.
        if b"elemetry" in raw and (path.endswith(".yaml") or _has_section(raw, app.encode())):
            from atotelemetry.host.project import reason_in  # tomllib costs milliseconds

            reason = reason_in(path, raw, app)
            if reason:
                return reason
    return ""


def _has_section(raw: bytes, app: bytes) -> bool:
    """Whether TOML may have a table `tool.<app>`, in any of its spellings."""
    if app not in raw:
        return False
    compact = b"\n" + raw.translate(None, b" \t\"'")
    return b"tool." + app in compact or b"\n[tool]" in compact or b"\ntool=" in compact


def _project_files(app: str) -> Iterator[tuple[str, bytes]]:
    """Yield path and beginning of each project file, from the working directory up to the repository's root."""
    names = ("pyproject.toml", "ato.yaml") if app == "atopile" else ("pyproject.toml",)
    try:
        place = os.getcwd()
    except OSError:
        return
    for _ in range(_PROJECT_LEVELS):
        for name in names:
            path = os.path.join(place, name)
            try:
                yield path, beginning(path)
            except (OSError, ValueError):
                continue  # there is none, or it is unreadable
        parent = os.path.dirname(place)
        if parent == place or os.path.lexists(os.path.join(place, ".git")):
            return
        place = parent


def _signature(path: str) -> tuple[int, ...] | None:
    """Return a value that changes when the file does, None if there is no file. A sender compares it, too."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _first_run(path: str) -> FileChoice:
    """Create the file for a new user; return its content, which a quicker process may have written.

    Raises OSError.
    """
    choice = FileChoice("on", "", None, uuid4())
    if create(path, file_content(choice.id or "", enabled=True)):
        return choice
    for _ in range(50):
        choice = read_choice(path)
        if choice.state == "off" or choice.id is not None:
            break
        # Without hard links, the winner has created the file and not yet written its two lines.
        sleep(0.002)
    return choice


def _run_id(app: str) -> str:
    """Return the random id that stands for the user of `app` as long as this process lives."""
    # setdefault, so that two threads that ask first get one answer.
    return _run_ids.get(app) or _run_ids.setdefault(app, uuid4())
