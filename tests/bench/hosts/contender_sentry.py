"""sentry-sdk with its defaults: messages and errors as events, no tracing; the exit is left to its own hook."""

from __future__ import annotations

sentry_sdk = None


def load():
    global sentry_sdk  # noqa: PLW0603 - the module is this contender's client
    import sentry_sdk


def setup(url, room=0):
    options = {"transport_queue_size": room} if room else {}
    sentry_sdk.init(dsn=url.replace("http://", "http://key@") + "/1", **options)


def capture(name, properties):
    sentry_sdk.capture_event({"message": name, "level": "info", "extra": properties})


def capture_exception(error):
    sentry_sdk.capture_exception(error)


def drain():
    sentry_sdk.flush(timeout=300)


def dropped():
    return None  # it does not say
