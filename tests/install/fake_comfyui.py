"""A ComfyUI of sixty lines that can misbehave: `fake_comfyui.py MODE --port N …`."""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

MODE = sys.argv[1]
PORT = int(sys.argv[sys.argv.index("--port") + 1])
PNG = b"\x89PNG\r\n\x1a\n..."


class Handler(BaseHTTPRequestHandler):
    """Answers the five calls that the check makes."""

    def do_GET(self) -> None:
        if self.path == "/system_stats":
            self._reply(503 if MODE == "never-ready" else 200, b"{}")
        elif self.path.startswith("/history/"):
            if MODE == "dies-at-job":
                sys.stdout.write("Killed by the kernel\n")
                sys.stdout.flush()
                raise SystemExit
            status = "error" if MODE == "job-fails" else "success"
            image = {"filename": "a.png", "subfolder": "", "type": "output"}
            entry = {"outputs": {"2": {"images": [image]}}, "status": {"status_str": status}}
            self._reply(200, json.dumps({"p1": entry}).encode())
        elif self.path.startswith("/view?"):
            self._reply(200, b"<html>" if MODE == "bad-picture" else PNG)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if MODE == "refuses":
            self._reply(400, b'{"error": "no such node"}')
        else:
            self._reply(200, b'{"prompt_id": "p1", "node_errors": {}}')

    def log_message(self, *args: object) -> None:
        pass

    def _reply(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if MODE == "dies-at-start":
    sys.exit("Torch not compiled with CUDA enabled")
if MODE == "hangs":
    time.sleep(1000)
server = HTTPServer(("127.0.0.1", PORT), Handler)
while True:
    server.handle_request()
