"""moto's S3 in a process of its own, so that a test's memory is the worker's alone.

Prints its URL, and ends when its standard input does.
"""

import logging
import sys

from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
print(f"http://{host}:{port}", flush=True)  # noqa: T201 - how it is found
sys.stdin.read()
server.stop()
