"""The life of a sender: read, gather, deliver, drain, and be gone in time.

Runs in the sender. The *reader*, a thread, takes lines from stdin into the bounded buffer. The *deliverer*, the caller
of `run`, makes requests of the buffer's events. Each goes to a *lane*, a thread that makes all its attempts. At the
end of the input, or at SIGTERM, the countdown starts. When it is over the watchdog ends the process, even if its other
threads are stuck.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec

from atotelemetry.facts import WORKER_WAKE_INTERVAL
from atotelemetry.facts.address import without_credentials
from atotelemetry.ids import uuid4
from atotelemetry.sender import batch, reasons
from atotelemetry.sender.answers import Answers
from atotelemetry.sender.breaker import Breaker
from atotelemetry.sender.buffer import Buffer
from atotelemetry.sender.connection import Network
from atotelemetry.sender.delivery import Delivery, user_agent
from atotelemetry.sender.dispatch import Dispatcher, utc_now
from atotelemetry.sender.endpoints import Endpoints
from atotelemetry.sender.lanes import Channel, Lanes
from atotelemetry.sender.outcome import DELIVERED, STOPPED, TOO_LATE, Outcome
from atotelemetry.sender.reader import Reader, Source
from atotelemetry.sender.tally import Tally, counted
from atotelemetry.sender.watchdog import Countdown, leave
from atotelemetry.wire import PROTOCOL_VERSION, Event, Hello, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from atotelemetry.sender.journal import Journal

__all__ = ["SENDER_IDLE", "Sender"]

SENDER_IDLE = 60.0
"""When nothing has arrived for so long, the input counts as ended."""

# A dry run needs neither a server nor a key.
_NOWHERE = Hello(protocol=PROTOCOL_VERSION, api_key="(the project's key)", host="http://unknown.invalid")

_ENRICHING = 3.0  # the most that working out the run's properties may take, or a quarter of a shorter deadline
_LOOK_INTERVAL = 0.1
_STUCK = 0.05
_TERMINATED_DRAIN = 2.0  # after SIGTERM; a machine that stops sends SIGKILL soon after


class Sender:
    """Everything between stdin and the server.

    Args:
        source: the host of a detached sender; None by hand.
        journal: told of every problem, request and drop.
        overrides: fields of `Hello` that a person set by options. They win over the stream.
        idle: seconds without input after which it counts as ended; None for never.
        dry_run: called with each request instead of sending it.

    """

    def __init__(
        self,
        source: Source | None,
        journal: Journal,
        *,
        overrides: Mapping[str, Any],
        idle: float | None,
        dry_run: Callable[[batch.Request], None] | None = None,
    ) -> None:
        self._journal = journal
        self._detached = source is not None
        self._answers = Answers(-1 if source is None else source.answers)
        self._idle = idle
        self._dry_run = dry_run
        self._buffer = Buffer()
        self._countdown = Countdown(self._out_of_time)
        self.tally = Tally(journal, self._answers.tell)
        """The counts of everything read so far."""
        self.reader = Reader(
            source,
            overrides=overrides,
            fallback=None if dry_run is None else _NOWHERE,
            buffer=self._buffer,
            tally=self.tally,
            countdown=self._countdown,
            journal=journal,
        )
        self._settings = Hello(protocol=PROTOCOL_VERSION, api_key="", host="")
        self._lanes: Lanes | None = None
        self._enrichment: _Enrichment | None = None
        self._common: dict[str, msgspec.Raw] = {}
        self._common_bytes = 0

    def run(self) -> Tally:
        """Deliver the events of the input until it ends; return their counts."""
        if self._dry_run is not None:
            self.tally.delivered_is_called = "printed"
        self.reader.start()
        self._answers.ready()
        self._deliver_all(idle=self._idle)
        self.reader.end_of_input()
        self._wait_for_lanes()
        self.tally.lock.acquire()  # held for good in the end: the watchdog would only repeat this
        while self.tally.undecided:  # it came after an idle input had counted as ended
            self.tally.lock.release()
            self._deliver_all(idle=0.0)
            self._wait_for_lanes()
            self._countdown.pause(0.001)  # the reader may be about to put it into the buffer
            self.tally.lock.acquire()
        self.tally.unread = self.tally.unread or self.reader.leaves_something()
        self._answers.last(self.tally)
        return self.tally

    def terminate(self) -> None:
        """End soon, after a short drain. Somebody ends the processes of this machine or session."""
        self._journal.detail("SIGTERM: a short drain")
        self._countdown.start(_TERMINATED_DRAIN)

    def fail(self) -> None:
        """Count every event without a fate as lost, by a bug of ours."""
        self.tally.lock.acquire(timeout=_STUCK)
        self._give_up("the sender failed", reasons.SENDER_FAILED)

    # ---- deliverer

    def _deliver_all(self, *, idle: float | None) -> None:
        """Deliver until the input has ended, or was idle for too long."""
        while True:
            gather = 0.0 if self._settings.endpoint == "capture" else WORKER_WAKE_INTERVAL
            if not self._buffer.wait(gather=gather, idle=idle) and not self._is_held_up():
                return
            hello = self._buffer.take_hello()
            if hello is not None:
                self._adopt(hello)
            elif self._buffer.waiting():
                self._deliver_some()

    def _is_held_up(self) -> bool:
        """Whether to wait for a silent host all the same: it is watched; or patient, and its events on their way."""
        watched = self._settings.watch is not None
        if not (self._settings.patient or watched) or self._buffer.closed() or self._countdown.left() is not None:
            return False
        self._buffer.touch()  # the idle time begins anew
        return watched or bool(self.tally.undecided)

    def _adopt(self, settings: Hello) -> None:
        """Use these settings from here on. Start all work that can go on while events gather."""
        if self._lanes is not None:
            self._wait_for_lanes()
            self._lanes.close()
            self._lanes = None
        self._settings = settings
        self._journal.follow(settings.app, settings.cwd)
        self._enrichment = _Enrichment(settings, self._journal)
        if self._dry_run is None and self._buffer.waiting():
            self._open_lanes().warm_up()

    def _deliver_some(self) -> None:
        """Take a request's worth out of the buffer and deliver it."""
        lanes = self._lanes or self._open_lanes()
        endpoint = self._settings.endpoint
        if self._enrichment is not None:
            self._common = self._enrichment.result(self._countdown)
            self._common_bytes = len(encode(self._common))
            self._enrichment = None
        self._buffer.wait_for(
            lambda backlog: self._countdown.stopped() or lanes.have_room(backlog=backlog), endpoint=endpoint
        )
        events = self._buffer.take_events(
            endpoint=endpoint,
            limit_bytes=lanes.limit_bytes,
            extra_bytes=self._common_bytes + batch.MADE_UP_BYTES,
        )
        if events and self._countdown.left() == 0:  # there may be many: they are not worth preparing any more
            why = STOPPED if self._countdown.stopped() else TOO_LATE
            self._drop(events, why.reason, why.cause)
            return
        prepared = [done for done in map(self._prepare, events) if done is not None]
        if prepared:
            lanes.deliver(prepared)

    def _drop(self, events: list[Event], reason: str, cause: str) -> None:
        with self.tally.lock:
            self.tally.drop([event.event for event in events], reason, cause)

    def _wait_for_lanes(self) -> None:
        """Wait until nothing is on its way."""
        lanes = self._lanes
        if lanes is not None:
            self._buffer.wait_for(lambda _: lanes.idle(), endpoint=self._settings.endpoint)

    def _prepare(self, event: Event) -> batch.Prepared | None:
        common, uuid, distinct_id, timestamp = self._common, "", "", ""
        if not (event.uuid and event.distinct_id and event.timestamp):  # written by hand
            uuid, distinct_id, timestamp = uuid4(), uuid4(), utc_now()
            if event.distinct_id is None or event.distinct_id == "":
                # PostHog makes no person of an event without a meaningful distinct_id.
                common = {**common, "$process_person_profile": msgspec.Raw(b"false")}
        try:
            if event.event == "$exception":
                from atotelemetry.sender.scrub import masked  # only for exceptions

                event, common = masked(event, common, self._settings.scrub)
            return batch.prepare(event, common, uuid=uuid, distinct_id=distinct_id, timestamp=timestamp)
        except Exception as error:  # of one event: nesting that the decoder still took may be too deep here
            self._drop([event], f"not encodable: {error}", reasons.NOT_ENCODABLE)
            return None

    def _open_lanes(self) -> Lanes:
        """Open the way to the server that the settings name."""
        settings = self._settings
        endpoints = Endpoints(settings, self._journal)
        network: Network | None = None
        note: Callable[[Outcome], object] = bool
        if self._dry_run is None:
            agent = user_agent(settings.app, settings.app_version, settings.search_path)
            self._journal.detail(f"sending to {without_credentials(settings.host)} as {agent}")
            network = Network(
                user_agent=agent,
                request_timeout=min(settings.request_timeout, 1e6),
                directory=settings.cwd,
                journal=self._journal,
                is_stopped=self._countdown.stopped,
            )
            # By hand a person may try any address; that says nothing about the runs of a program.
            note = Breaker(settings.app, settings.host).note if self._detached else bool

        def make_channel() -> Channel:
            delivery = None
            if network is not None:
                delivery = Delivery(
                    host=settings.host,
                    network=network,
                    compression=settings.compression,
                    journal=self._journal,
                    note=note,
                )
            dispatcher = Dispatcher(
                settings,
                post=delivery.post if delivery else self._print,
                time=self._countdown,
                journal=self._journal,
                tally=self.tally,
                endpoints=endpoints,
            )
            return Channel(dispatcher, delivery)

        self._lanes = Lanes(make_channel, on_free=self._buffer.look_again)
        return self._lanes

    def _print(self, request: batch.Request, events: int, time_limit: float | None) -> Outcome:  # noqa: ARG002
        if self._dry_run is not None:
            self._dry_run(request)
        self._journal.detail(f"would POST {request.path} {counted(events)}, {len(request.body)} bytes")
        return Outcome(DELIVERED, "not sent")

    # ---- the end

    def _out_of_time(self) -> None:
        """End a stuck process, and report the losses. Called by the watchdog."""
        # The thread that holds the lock may be stuck, too, in a journal that nobody reads.
        self.tally.lock.acquire(timeout=_STUCK)
        self.tally.unread = self.tally.unread or self.reader.reading
        self._give_up("no answer before the deadline", reasons.DEADLINE)
        self._journal.detail(f"done: {self.tally}; out of time")
        leave(0 if self._detached or self.tally.complete else 1)

    def _give_up(self, reason: str, cause: str) -> None:
        if self.tally.undecided > 0:
            self.tally.drop(self.tally.undecided, reason, cause)
        self._answers.last(self.tally)


class _Enrichment:
    """Works out, on a thread of its own, the properties that only cost the sender."""

    def __init__(self, settings: Hello, journal: Journal) -> None:
        self._settings = settings
        self._journal = journal
        self._time_limit = min(_ENRICHING, settings.sender_deadline / 4)
        self._result: dict[str, msgspec.Raw] = {}
        self._thread = threading.Thread(target=self._work, name="enrich", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # no thread to be had: the events go without
            journal.problem(f"some common properties are missing: {error}")

    def result(self, countdown: Countdown) -> dict[str, msgspec.Raw]:
        """Return the run's common properties, without any that took too long; those of the `hello` win."""
        # Its own limit bounds each step that may take long; twice that bounds everything else.
        ends_at = time.monotonic() + self._time_limit * 2
        while self._thread.is_alive() and time.monotonic() < ends_at:
            left = countdown.left()
            if left is not None and left < min(_TERMINATED_DRAIN / 2, self._time_limit):
                break  # SIGTERM: the events matter more
            self._thread.join(_LOOK_INTERVAL)
        common = dict(self._result)
        properties = bytes(self._settings.properties)
        try:
            common.update(msgspec.json.decode(properties, type=dict[str, msgspec.Raw]))
        except msgspec.MsgspecError as error:
            self._journal.problem(f"the common properties are missing: {error}")
        return common

    def _work(self) -> None:
        from atotelemetry.facts import run

        settings = self._settings
        try:
            known = dict(run.library_properties())
            if not settings.disable_geoip:
                del known["$geoip_disable"]
            if settings.run_properties:
                known.update(
                    run.run_properties(
                        settings.run_properties,
                        cwd=settings.cwd,
                        app=settings.app,
                        app_version=settings.app_version,
                        salt=settings.salt,
                        search_path=settings.search_path,
                        is_tty=settings.is_tty,
                        time_limit=self._time_limit,
                    )
                )
            version = known.get("app_version") or known.get("atopile_version") or settings.app_version
            known.update(run.release_properties(settings.app, version))
            self._result = {name: msgspec.Raw(encode(value)) for name, value in known.items()}
        except Exception as error:
            self._journal.problem(f"some common properties are missing: {error!r}")
