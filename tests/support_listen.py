"""Source that a test's host puts behind `support_hosts.PREAMBLE` when it wants to hear our DEBUG lines."""

LISTEN = """
import logging

heard = []

class Ear(logging.Handler):
    def emit(self, record):
        heard.append(record.getMessage())

logging.getLogger("atotelemetry").addHandler(Ear())
logging.getLogger("atotelemetry").setLevel(logging.DEBUG)

"""
