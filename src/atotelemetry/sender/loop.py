"""The life of a sender: read, gather, deliver, drain, and be gone in time.

Runs in the sender. The *reader*, a thread, takes lines from stdin into the bounded buffer and stops reading while that
is full, which is how backpressure reaches the host. The *deliverer*, the caller of `run`, turns the buffer into
requests and gives each to a *lane*, a thread that sees it through its retries. At the end of the input the countdown
starts, and a watchdog ends the process when it is over, whatever the others are stuck in.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from atotelemetry.facts.address import without_credentials
from atotelemetry.ids import uuid4
from atotelemetry.sender import batch
from atotelemetry.sender.buffer import Buffer
from atotelemetry.sender.connection import Network
from atotelemetry.sender.delivery import Delivery, user_agent
from atotelemetry.sender.dispatch import Dispatcher, Tally, counted, drop, utc_now
from atotelemetry.sender.lanes import Carrier, Lanes
from atotelemetry.sender.outcome import DELIVERED, Outcome
from atotelemetry.sender.settings import fault_of
from atotelemetry.sender.watchdog import Countdown
from atotelemetry.wire import PROTOCOL_VERSION, End, Event, Hello, LineDecoder, LineError, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from atotelemetry.sender.journal import Journal

__all__ = ["SENDER_IDLE", "WORKER_WAKE_INTERVAL", "Sender"]

WORKER_WAKE_INTERVAL = 0.1
"""How long the sender gathers events before it posts them."""

SENDER_IDLE = 60.0
"""When nothing has arrived for so long, the input counts as ended."""

_READ_BYTES = 64 * 1024  # a pipe's capacity
_ENRICHING = 3.0  # the most that working out the run's properties may take, or a quarter of a shorter deadline
_DEFAULT_DEADLINE = 15.0
_NO_SETTINGS = "events came before any hello line, and no --host and --api-key were given (see --help)"


class Sender:
    """Everything between stdin and the server.

    Args:
        overrides: fields of `Hello` that a person set by options; they win over what the stream says, and where they
            name host and api_key, events need no hello line.
        journal: told of every problem, request and drop.
        stop_at_end: whether an `end` line ends the input; a person may put several streams one after another.
        idle: seconds without input after which it counts as ended; None for never.
        dry_run: called with each request instead of sending it.

    """

    def __init__(
        self,
        *,
        overrides: Mapping[str, Any],
        journal: Journal,
        stop_at_end: bool = True,
        idle: float | None = SENDER_IDLE,
        dry_run: Callable[[batch.Request], None] | None = None,
    ) -> None:
        self._overrides = dict(overrides)
        self._journal = journal
        self._stop_at_end = stop_at_end
        self._idle = idle
        self._dry_run = dry_run
        self._buffer = Buffer()
        self._countdown = Countdown(self._out_of_time)
        # Held while the fate of events is put on record, and for good by whoever has the last word.
        self._deciding = threading.Lock()
        self.tally = Tally()
        """What became of everything read so far."""
        self.called_wrongly = ""
        """Why some events could not be sent at all: the stream did not say where to."""
        # The reader's.
        self._greeted: Hello | None = None
        self._reading = True
        self._decoder = LineDecoder()
        self._taking = False  # whether something was taken from the input that is not all in the tally yet
        # The deliverer's.
        self._settings = Hello(protocol=PROTOCOL_VERSION, api_key="", host="")
        self._lanes: Lanes | None = None
        self._enrichment: _Enrichment | None = None
        self._common: dict[str, msgspec.Raw] = {}
        self._common_bytes = 0
        self._in_hand: list[str] = []  # events on their way from the buffer to a lane

    def run(self, stdin: int) -> Tally:
        """Deliver what comes from the descriptor `stdin` until it ends; return what became of it."""
        if self._dry_run is not None:
            self.tally.delivered_is_called = "printed"
        threading.Thread(target=self._read, args=(stdin,), name="reader", daemon=True).start()
        self._deliver_all(idle=self._idle)
        self._end_of_input()
        self._wait_for_lanes()
        while self._buffer.waiting():  # it came after an idle input had counted as ended
            self._deliver_all(idle=0.0)
            self._wait_for_lanes()
        self._deciding.acquire()  # from here on the watchdog would only repeat what we say
        if self._reading and self._leaves_something(stdin):
            self.tally.unread = True
        return self.tally

    # ---- reader thread

    def _read(self, stdin: int) -> None:
        try:
            while data := self._next(stdin):
                self._buffer.touch()
                if self._take(self._decoder.feed(data), stdin):
                    break
                self._taking = False
            else:
                self._take(self._decoder.close(), stdin)
        except Exception as error:
            self.tally.unread = True
            self._journal.problem(f"reading stopped: {error}")
        finally:
            self._reading = False
            self._end_of_input()
            self._buffer.close()

    def _next(self, stdin: int) -> bytes:
        # Said before anything is taken, where one can wait without taking: so whoever looks at the input, and then at
        # this, does not miss what is between the two.
        self._taking = _readable(stdin, None)
        data = os.read(stdin, _READ_BYTES)
        self._taking = True
        return data

    def _leaves_something(self, stdin: int) -> bool:
        """Whether leaving now loses a part of the input. Asked by the deliverer, while the reader may go on reading."""
        # In the order in which the reader passes it on; what is in the tally by then makes that incomplete.
        return _readable(stdin, 0.0) or self._taking or self._decoder.in_a_line

    def _take(self, messages: Sequence[Event | Hello | End | LineError], stdin: int) -> bool:
        """Put decoded lines into the buffer; True when they say that the input ends here."""
        items: list[Event | Hello] = []
        ended = False
        for message in messages:
            if isinstance(message, Event):
                if self._greeted is None and not self._greet(None, items):
                    ended = True
                    break
                items.append(message)
                self.tally.read += 1
            elif isinstance(message, LineError):
                if message.is_hello:
                    self.called_wrongly = f"the hello line cannot be used: {message}"
                    ended = True
                    break
                self.tally.bad_lines += 1
                self._journal.problem(f"skipped {message}")
            elif isinstance(message, Hello):
                if not self._greet(message, items):
                    ended = True
                    break
            else:
                if message.dropped:
                    self._journal.detail(f"the host captured {message.captured} events and dropped {message.dropped}")
                if self._stop_at_end:
                    ended = True
                    break
        if items:
            self._buffer.put(items, lambda: self._look_for_hangup(stdin))
        return ended

    def _greet(self, hello: Hello | None, items: list[Event | Hello]) -> bool:
        """Let a hello line (None: only the options) hold from here on; False when that leaves nowhere to send to."""
        if hello is None:
            if not self._overrides.get("host"):
                self.called_wrongly = _NO_SETTINGS
                return False
            hello = Hello(protocol=PROTOCOL_VERSION, api_key="", host="")
        elif hello.protocol != PROTOCOL_VERSION:
            self._journal.problem(f"the stream speaks protocol {hello.protocol}, this sender {PROTOCOL_VERSION}")
        settings = msgspec.structs.replace(hello, **self._overrides)
        fault = fault_of(settings)
        if fault:
            # Not to be skipped like other lines: its events would go to where the stream before it went.
            self.called_wrongly = f"the hello line cannot be used: {fault}"
            return False
        if settings != self._greeted:
            self._greeted = settings
            items.append(settings)
        return True

    def _look_for_hangup(self, stdin: int) -> None:
        """Notice that the host is gone even while the buffer is too full to read up to the end of the pipe."""
        if self._countdown.left() is None and _hung_up(stdin):
            self._end_of_input()

    # ---- deliverer

    def _gather(self) -> float:
        return 0.0 if self._settings.endpoint == "capture" else WORKER_WAKE_INTERVAL

    def _deliver_all(self, *, idle: float | None) -> None:
        """Deliver what comes until the input has ended, or was idle for too long."""
        while self._buffer.wait(gather=self._gather(), idle=idle):
            hello = self._buffer.take_hello()
            if hello is not None:
                self._adopt(hello)
            else:
                self._deliver_some()

    def _adopt(self, settings: Hello) -> None:
        """Use these settings from here on; start what can go on while events gather."""
        if self._lanes is not None:
            self._wait_for_lanes()
            self._lanes.close()
            self._lanes = None
        self._settings = settings
        self._enrichment = _Enrichment(settings, self._journal)
        if self._dry_run is None and self._buffer.waiting():
            self._open_lanes().warm_up()

    def _deliver_some(self) -> None:
        """Take a request's worth out of the buffer and deliver it."""
        lanes = self._lanes or self._open_lanes()
        endpoint = self._settings.endpoint
        if self._enrichment is not None:
            self._common = self._enrichment.result()
            self._common_bytes = len(encode(self._common))
            self._enrichment = None
        self._buffer.wait_for(lambda backlog: lanes.have_room(backlog=backlog), endpoint=endpoint)
        with self._deciding:
            events = self._buffer.take_events(
                endpoint=endpoint,
                limit_bytes=lanes.limit_bytes,
                extra_bytes=self._common_bytes + batch.MADE_UP_BYTES,
            )
            self._in_hand = [event.event for event in events]
            if events and self._countdown.left() == 0:  # there may be many: they are not worth preparing any more
                drop(self._in_hand, "no time left before the deadline", self.tally, self._journal)
                self._in_hand = []
                return
        prepared = [done for done in map(self._prepare, events) if done is not None]
        # First: better a moment in which their names are not known than one in which they would be named twice.
        self._in_hand = []
        if prepared:
            lanes.deliver(prepared)

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
                # PostHog makes no person of an event whose distinct_id means nothing.
                common = {**common, "$process_person_profile": msgspec.Raw(b"false")}
        try:
            return batch.prepare(event, common, uuid=uuid, distinct_id=distinct_id, timestamp=timestamp)
        except Exception as error:  # of one event: nesting that the decoder still took may be too deep here
            with self._deciding:
                self._in_hand.remove(event.event)
                drop([event.event], f"not encodable: {error}", self.tally, self._journal)
            return None

    def _open_lanes(self) -> Lanes:
        """Open the way to the server that the settings name."""
        settings = self._settings
        if self._dry_run is None:
            agent = user_agent(settings.app, settings.app_version)
            self._journal.detail(f"sending to {without_credentials(settings.host)} as {agent}")
            network = Network(
                user_agent=agent,
                request_timeout=min(settings.request_timeout, 1e6),
                directory=settings.cwd,
                journal=self._journal,
            )
            lanes = Lanes(lambda: self._carrier(network), on_free=self._buffer.look_again)
        else:
            lanes = Lanes(lambda: Carrier(self._dispatcher(self._print), None), on_free=self._buffer.look_again, most=1)
        self._lanes = lanes
        return lanes

    def _carrier(self, network: Network) -> Carrier:
        settings = self._settings
        delivery = Delivery(
            host=settings.host,
            network=network,
            compression=settings.compression,
            journal=self._journal,
        )
        return Carrier(self._dispatcher(delivery.post), delivery)

    def _dispatcher(self, post: Callable[[batch.Request, int, float | None], Outcome]) -> Dispatcher:
        return Dispatcher(
            self._settings,
            post=post,
            time=self._countdown,
            journal=self._journal,
            tally=self.tally,
            deciding=self._deciding,
        )

    def _print(self, request: batch.Request, events: int, time_limit: float | None) -> Outcome:  # noqa: ARG002
        if self._dry_run is not None:
            self._dry_run(request)
        self._journal.detail(f"would POST {request.path} {counted(events)}, {len(request.body)} bytes")
        return Outcome(DELIVERED, "not sent")

    # ---- the end

    def _end_of_input(self) -> None:
        """Start the clock: from here on there is a deadline."""
        settings = self._greeted
        if settings is None:  # there is nothing to deliver, but still something to be stuck in
            self._countdown.start(self._overrides.get("sender_deadline", _DEFAULT_DEADLINE))
        else:
            self._countdown.start(settings.sender_deadline)

    def _out_of_time(self) -> None:
        """End a stuck process, with a word about what was lost. Called by the watchdog."""
        self._deciding.acquire(timeout=0.05)
        # Against the direction in which events move, so that none is met twice.
        names = self._lanes.undecided_names() if self._lanes is not None else []
        names += self._in_hand
        names += self._buffer.names()
        lost = self.tally.undecided
        if lost > 0:
            names = names[:lost]
            unnamed = lost - len(names)  # just read, or just handed on
            drop(names, "no answer before the deadline", self.tally, self._journal, unnamed=unnamed)
        self.tally.unread = self.tally.unread or self._reading
        self._journal.detail(f"done: {self.tally}; out of time")
        os._exit(0 if self.tally.complete else 1)


class _Enrichment:
    """Works out, on a thread of its own, the properties that only cost the sender."""

    def __init__(self, settings: Hello, journal: Journal) -> None:
        self._settings = settings
        self._journal = journal
        self._time_limit = min(_ENRICHING, settings.sender_deadline / 4)
        self._result: dict[str, msgspec.Raw] = {}
        self._thread: threading.Thread | None = threading.Thread(target=self._work, name="enrich", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # no thread to be had: the events go without
            self._thread = None
            journal.problem(f"some common properties are missing: {error}")

    def result(self) -> dict[str, msgspec.Raw]:
        """Return the common properties of the run, those of the `hello` winning; without what took too long."""
        if self._thread is not None:
            # Its own limit bounds what may take long; twice that bounds everything else.
            self._thread.join(self._time_limit * 2)
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
            if settings.run_properties:
                known.update(
                    run.run_properties(
                        settings.run_properties,
                        cwd=settings.cwd,
                        app=settings.app,
                        app_version=settings.app_version,
                        time_limit=self._time_limit,
                    )
                )
            self._result = {name: msgspec.Raw(encode(value)) for name, value in known.items()}
        except Exception as error:
            self._journal.problem(f"some common properties are missing: {error!r}")


def _hung_up(stdin: int) -> bool:
    """Whether a pipe's other end is closed; False where one cannot ask (on Windows: room in the buffer will tell)."""
    try:
        import select

        poll = select.poll()
        poll.register(stdin, 0)  # POLLHUP and POLLERR are always reported
        return bool(poll.poll(0))
    except (AttributeError, ImportError, OSError):
        return False


def _readable(stdin: int, within: float | None) -> bool:
    """Whether there is something to read, or the end, within so many seconds (None: for ever).

    False where one cannot ask: on Windows, and a terminal on macOS.
    """
    try:
        import select

        poll = select.poll()
        poll.register(stdin, select.POLLIN)
        return any(what & (select.POLLIN | select.POLLHUP) for _, what in poll.poll(within and within * 1000))
    except (AttributeError, ImportError, OSError):
        return False
