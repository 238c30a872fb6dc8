"""The client that a CLI writes itself: a queue of 256, one thread, one httpx POST an event, and a join at exit.

A POST that fails is tried once more after half a second; the exit waits two seconds at most.
"""

from __future__ import annotations

RETRY_DELAY, JOIN, TIMEOUT = 0.5, 2.0, 5.0

_client = None


def load():
    import atexit  # noqa: F401 - what a program pays for the line itself

    import httpx  # noqa: F401


class Client:
    """The queue and its thread."""

    def __init__(self, url, room):
        import atexit
        import queue
        import threading

        import httpx

        self.url = f"{url}/capture/"
        self.queue = queue.Queue(room)
        self.dropped = 0
        self.http = httpx.Client(timeout=TIMEOUT)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        atexit.register(self.stop)

    def put(self, event):
        import queue

        try:
            self.queue.put_nowait(event)
        except queue.Full:
            self.dropped += 1

    def run(self):
        while (event := self.queue.get()) is not None:
            if not self.post(event):
                import time

                time.sleep(RETRY_DELAY)
                self.post(event)
            self.queue.task_done()

    def post(self, event):
        import httpx

        try:
            return self.http.post(self.url, json=event).status_code < 500
        except httpx.HTTPError:
            return False

    def stop(self):
        self.put(None)
        self.thread.join(JOIN)


def setup(url, room=0):
    global _client  # noqa: PLW0603 - one program, one client
    _client = Client(url, room or 256)


def capture(name, properties):
    import datetime
    import uuid

    _client.put(
        {
            "api_key": "phc_bench",
            "uuid": str(uuid.uuid4()),
            "event": name,
            "distinct_id": "me",
            "timestamp": datetime.datetime.now(datetime.UTC).isoformat(),
            "properties": dict(properties),
        }
    )


def capture_exception(error):
    import traceback

    text = "".join(traceback.format_exception(error))
    capture("$exception", {"$exception_type": type(error).__name__, "$exception_stack_trace": text})


def drain():
    _client.queue.join()


def dropped():
    return _client.dropped
