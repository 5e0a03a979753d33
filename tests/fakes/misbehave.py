"""Children that do what a supervisor fears. `python misbehave.py HOW --port N`

HOW: dies, silent (never answers), slow_death (answers, then dies on GET /die), stubborn (ignores
SIGTERM), litter (leaves a grandchild behind), good.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Stats(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/die":
            say("last words")
            os._exit(7)
        body = json.dumps({"system": {"comfyui_version": "0"}, "devices": []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("how")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    say(f"hello from {options.how}")
    if options.how == "dies":
        say("no such model")
        sys.exit(3)
    if options.how == "silent":
        time.sleep(600)
    if options.how == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.how == "litter":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        say(f"grandchild {child.pid}")
    ThreadingHTTPServer(("127.0.0.1", options.port), Stats).serve_forever()


if __name__ == "__main__":
    main()
