"""Change one value in a person's YAML, and leave every other byte as it is.

Runs in the `atotelemetry` command and in `Telemetry.enable` and `disable`; no measured run loads it. The edited text is
parsed again: only the choice may differ. Otherwise the old file is kept under another name, and a new one is written.
"""

from __future__ import annotations

import os
import stat

from atotelemetry.host.choice import (
    MAX_FILE_BYTES,
    choice_path,
    create,
    file_content,
    is_app_name,
    may_create,
    remove,
    write_beside,
)
from atotelemetry.host.choice_yaml import compose, decode, meaning, own_pairs, read_mapping
from atotelemetry.host.consent import choice_in, read_choice
from atotelemetry.host.debug import attempt
from atotelemetry.ids import uuid4

TYPE_CHECKING = False
if TYPE_CHECKING:
    from atotelemetry.host.choice_yaml import MappingNode, Node

__all__ = ["with_choice", "write", "write_choice"]


def write_choice(app: str = "atopile", enabled: bool = True) -> str:
    """Make the user's file say `enabled`, for the `atotelemetry` command. Returns a report for people.

    Only the value of `telemetry` changes. Mode and owner stay; a symbolic link is followed. A file that cannot be
    understood is kept under another name. Raises OSError or ValueError with a text for people.
    """
    if not is_app_name(app):
        raise ValueError(f"{app!r} is not the name of an application")
    path = choice_path(app)
    if not path:
        raise OSError("there is no home directory to keep the choice in; set HOME or XDG_CONFIG_HOME")
    return write(path, enabled=enabled)


def with_choice(raw: bytes, *, enabled: bool) -> bytes:
    """Return `raw` with the value of `telemetry` changed to `enabled`, or with that line added.

    Returns the same bytes when they say so already. Raises ValueError when changing this one value does not suffice.
    """
    mark, encoding, text = decode(raw)
    mapping = compose(text)
    pairs = own_pairs(mapping, "telemetry")
    edits = [_replacement(text, key, value, enabled) for key, value in pairs if meaning(value) is not enabled]
    if not pairs:
        edits.append(_insertion(text, mapping, enabled))
    edited = text
    for start, end, new in sorted(edits, reverse=True):
        edited = edited[:start] + new + edited[end:]
    again = compose(edited)
    if read_mapping(again).state != ("on" if enabled else "off") or _others(again) != _others(mapping):
        raise ValueError("the value cannot be changed on its own")
    if len(raw) > MAX_FILE_BYTES:
        raise ValueError("larger than a run would read")
    return mark + edited.encode(encoding)


def write(path: str, *, enabled: bool) -> str:
    """Make the file at `path` say `enabled`; return a report for people.

    Raises OSError or ValueError, with a text for people, when the choice could not be stored.
    """
    new = file_content(uuid4(), enabled=enabled)
    is_ours = may_create(path)
    # Dotfile managers keep a link here, and the person edits the file behind it. In another user's directory no link is
    # followed: its owner could point one at a file of ours meanwhile.
    target = os.path.realpath(path) if is_ours else path
    if is_ours:
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    place = _Place(target, no_links=not is_ours)
    try:
        # Created exclusively, so that a first run at the same moment is not overwritten.
        if not place.exists() and is_ours and create(place.name, new, dir_fd=place.directory):
            done = f"created {path} with telemetry: {'true' if enabled else 'false'}"
        else:
            done = _rewrite(place, enabled=enabled)
    finally:
        place.close()
    found = read_choice(path)
    if found.state != ("on" if enabled else "off"):
        raise OSError(f"the choice was written, but what can be read now is: {found.reason(path)}")
    return done


class _Place:
    """A name in an open directory: it stays the same directory, whatever happens to its path.

    Raises OSError or ValueError, with a text for people, if the directory cannot be opened. On Windows, where a
    directory cannot be opened, it is the path.
    """

    def __init__(self, target: str, *, no_links: bool) -> None:
        self.target = target
        self.name = target
        self.no_links = no_links
        self.directory: int | None = None
        if os.name == "nt":
            return
        where, self.name = os.path.split(target)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        if not no_links:
            self.directory = os.open(where, flags)
            if os.fstat(self.directory).st_uid not in (os.geteuid(), 0):
                self.close()
                raise PermissionError(f"{where} belongs to another user; change {target} as that user")
            return
        self.directory = os.open("/", flags)
        for step in filter(None, where.split("/")):
            above = self.directory
            try:
                self.directory = os.open(step, flags | os.O_NOFOLLOW, dir_fd=above)
            except OSError as error:
                self.directory = None
                problem = f"{target} belongs to another user and cannot be reached safely ({error.strerror})"
                raise PermissionError(f"{problem}; run this as that user") from None
            finally:
                os.close(above)

    def close(self) -> None:
        if self.directory is not None:
            os.close(self.directory)

    def exists(self) -> bool:
        try:
            os.lstat(self.name, dir_fd=self.directory)
        except FileNotFoundError:
            return False
        return True

    def read(self) -> tuple[bytes, os.stat_result]:
        """Return content and status of one and the same file."""
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        try:
            descriptor = os.open(self.name, flags, dir_fd=self.directory)
        except FileNotFoundError:
            if not self.no_links:
                raise
            raise PermissionError(f"{self.target} would be in another user's home; run this as that user") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{self.target} is not a regular file; move it away and try again")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(), status
        finally:
            os.close(descriptor)

    def replace(self, content: bytes, status: os.stat_result) -> None:
        """Put `content` in the place of the file at once, with the mode and owner in `status`. Raises OSError."""

        def finish(descriptor: int) -> None:
            os.fsync(descriptor)
            if os.name == "nt":
                return
            # Under sudo the file must stay its owner's, or the next run could not read it.
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                # Without the right to do so the file becomes ours, and ours is the choice.
                attempt(os.fchown, descriptor, status.st_uid, status.st_gid, default=None)
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode))

        temporary = write_beside(self.name, content, dir_fd=self.directory, finish=finish)
        try:
            os.replace(temporary, self.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        finally:
            remove(temporary, self.directory)

    def keep_copy(self, raw: bytes) -> str:
        """Store `raw` under a name that nothing has yet, and return the path. Raises OSError."""
        end, number = ".bak", 1
        while not create(f"{self.name}{end}", raw, dir_fd=self.directory):
            number += 1
            end = f".bak{number}"
        return f"{self.target}{end}"


def _rewrite(place: _Place, *, enabled: bool) -> str:
    raw, status = place.read()
    target, before = place.target, choice_in(raw)
    kept = None
    try:
        content = with_choice(raw, enabled=enabled)
    except ValueError as error:
        if place.no_links:
            raise ValueError(f"{target} is another user's and needs more than a word changed: {error}") from None
        content = file_content(before.id or uuid4(), enabled=enabled)
        # A copy, not a rename: at no moment may there be no file, which would mean yes.
        kept = place.keep_copy(raw)
    if content == raw:
        return f"nothing to change: {before.reason(target)}"
    place.replace(content, status)
    after = choice_in(content)
    if kept is not None:
        problem = "could not be understood" if before.state == "damaged" else "could not be edited safely"
        return f"the old file {problem} and is now {kept}; wrote a new one: {after.reason(target)}"
    # A line number means that the file named a choice.
    was = f" (it said {before.detail})" if before.state != "damaged" and before.line else ""
    return f"wrote {after.reason(target)}{was}"


def _replacement(text: str, key: Node, value: Node, enabled: bool) -> tuple[int, int, str]:
    """Return start, end and new text for one value. Raises ValueError when the value is more than a word."""
    new = "true" if enabled else "false"
    start, end = value.start_mark.index, value.end_mark.index
    if start < key.end_mark.index:
        # An alias (`*name`): its node stands where the anchor does. Only the alias itself is to be replaced.
        start = text.index("*", key.end_mark.index)
        end = start + 1
        while end < len(text) and not text[end].isspace() and text[end] not in ",[]{}":
            end += 1
    if start == end:
        # No value: right after the colon, or (`{telemetry, id: …}`) after the key, without even a colon.
        colon = text.find(":", key.end_mark.index, end)
        at = colon + 1 if colon >= 0 else key.end_mark.index
        return at, at, f" {new}" if colon >= 0 else f": {new}"
    if not isinstance(value.value, str) or "\n" in text[start:end]:
        raise ValueError("the value is more than a word")
    return start, end, new


def _insertion(text: str, mapping: MappingNode, enabled: bool) -> tuple[int, int, str]:
    """Return start, end and new text for a `telemetry` key before the others."""
    pair = f"telemetry: {'true' if enabled else 'false'}"
    start = mapping.start_mark.index
    if mapping.flow_style:
        return start + 1, start + 1, f"{pair}, " if mapping.value else pair
    newline = "\r\n" if "\r\n" in text else "\n"
    return start, start, pair + newline + " " * mapping.start_mark.column


def _others(mapping: MappingNode) -> list[tuple[str, str]]:
    """Return every pair but `telemetry`, in a form that can be compared."""
    import yaml

    ours = {id(key) for key, _ in own_pairs(mapping, "telemetry")}
    return [(yaml.serialize(key), yaml.serialize(value)) for key, value in mapping.value if id(key) not in ours]
