"""One client's memory of exceptions: the application's packages, and the exceptions reported already.

Runs in the host, on the thread that captures an exception; loaded at the first one. No lock, because a signal handler
may capture an exception. So threads at the same moment may send one too many.
"""

from __future__ import annotations

from atotelemetry.host.classes import full_name
from atotelemetry.host.clock import monotonic
from atotelemetry.host.exceptions import current_exception, exception_properties, mark_reported, unmark_reported
from atotelemetry.host.frames import Frames, own_packages, traceback_entries
from atotelemetry.host.stats import Lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from atotelemetry.host.values import Walk

    Kind: TypeAlias = tuple[str, ...]
    Claim: TypeAlias = tuple[BaseException, int, Kind]

__all__ = ["Repeats", "Reports"]

_MOST = 10
_WITHIN = 10.0
_MOST_KINDS = 256


class Reports:
    """Describes exceptions for one client, each object once.

    Args:
        app: the application's name.
        maker: import name of the module that made the client.
        in_app: import names of the application's code, if the host gives them.
        source_lines: whether frames have lines of source.

    """

    def __init__(self, app: str, maker: str, in_app: Sequence[str], source_lines: bool) -> None:
        self._application = app, maker, in_app
        self._source_lines = source_lines
        self._repeats = Repeats()

    def claim(self, exception: object) -> Claim | None:
        """Find the exception that a caller means; None when there is none, or it is reported already.

        Also returns how many of its kind were dropped before it, and its kind. Raises `Lost` when it came too often
        itself. The next event counts it.
        """
        caught = current_exception(exception)
        if caught is None:
            return None
        try:
            return (caught, *self._admit(caught)) if mark_reported(caught) else None
        except BaseException:  # also Ctrl-C: nothing was queued
            unmark_reported(caught)
            raise

    def _admit(self, caught: BaseException) -> tuple[int, Kind]:
        # Packages may be imported meanwhile, so they are looked for each time.
        place = Frames(self._own(), source_lines=False).innermost_own(traceback_entries(caught)[0])
        kind = full_name(type(caught)), *place
        repeated = self._repeats.admit(*kind)
        if repeated is None:
            raise Lost("repeated")
        return repeated, kind

    def describe(self, caught: BaseException, distinct_id: str, *, walk: Walk, handled: bool) -> dict[str, object]:
        """Return the properties that describe `caught`. Never raises."""
        return exception_properties(
            caught, walk, distinct_id=distinct_id, handled=handled, own=self._own(), source_lines=self._source_lines
        )

    def release(self, claim: Claim) -> None:
        """Undo a claim: its event was lost. Never raises."""
        caught, repeated, kind = claim
        self._repeats.take_back(repeated, *kind)
        unmark_reported(caught)

    def _own(self) -> tuple[str, ...]:
        return own_packages(*self._application)


class Repeats:
    """Keeps one bug in a loop from filling a server: ten of a kind in ten seconds.

    Args:
        now: seconds on a monotonic clock.

    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._kinds: dict[Kind, tuple[list[float], int]] = {}
        """When those of a kind came that were not dropped, and how many were since."""

    def admit(self, *key: str) -> int | None:
        """Return how many of this kind were dropped since the last one that was not; None: drop this one, too."""
        admitted, dropped = self._kinds.get(key, ([], 0))
        if key not in self._kinds and len(self._kinds) >= _MOST_KINDS:
            self._kinds.clear()
        now = self._now()
        recent = [when for when in admitted if now - when < _WITHIN]
        if len(recent) >= _MOST:
            self._kinds[key] = recent, dropped + 1
            return None
        self._kinds[key] = [*recent, now], 0
        return dropped

    def take_back(self, repeated: int, *key: str) -> None:
        """Undo the last `admit` of this kind, which returned `repeated`."""
        admitted, dropped = self._kinds.get(key, ([], 0))
        self._kinds[key] = admitted[:-1], dropped + repeated
