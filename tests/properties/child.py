"""A child of few words and fast start, run with -S -E: `child.py HOW PORT GATE`.

HOW: good; dies (at its start); brittle (dies of its first request); late (answers once the file
GATE is there); silent (never answers); stubborn (ignores SIGTERM); sulky (silent and stubborn);
litter (leaves a grandchild that ignores SIGTERM); ghost (silent, and leaves one in a session of its
own, which holds the log open until its input is closed); flood (writes more than any pipe holds).
"""

import os
import signal
import sys
import time
from socket import create_server

BODY = b'{"system": {}, "devices": []}'
REPLY = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


def sleep() -> None:
    while True:
        time.sleep(600)


def main() -> None:
    how, port, gate = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if how in {"stubborn", "sulky"}:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(1, f"hello from {how}\n".encode())
    if how == "dies":
        os._exit(3)
    if how == "ghost" and os.fork() == 0:
        os.setsid()
        os.write(1, f"ghost {os.getpid()}\n".encode())
        os.read(0, 1)
        os._exit(0)
    if how in {"silent", "sulky", "ghost"}:
        sleep()
    if how == "litter" and os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sleep()
    if how == "flood":
        for _ in range(40):
            os.write(1, b"x" * 9_999 + b"\n")
    while how == "late" and not os.path.exists(gate):  # noqa: PTH110 - a light start
        time.sleep(0.005)
    with create_server(("127.0.0.1", port)) as server:
        while True:
            client, _ = server.accept()
            if how == "brittle":
                os._exit(7)
            with client:
                client.recv(4096)
                client.sendall(REPLY)


if __name__ == "__main__":
    main()
