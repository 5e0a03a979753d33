"""Runs ComfyUI's main.py and ends with its parent: a program for ComfyUI's own interpreter.

    python child.py /path/to/main.py [ComfyUI arguments]

The parent holds the other end of standard input. When it goes away, however it ends, reading
stdin returns and this process leaves: nothing keeps a GPU busy after us. (Linux's PDEATHSIG
would be tied to the parent's *thread*, and other systems have no such thing.) It also keeps
ComfyUI from writing down what its paid nodes send, since the API key is in it. Standard library
only; it must not import anything beside it, since this folder has modules named http and events.
"""

import sys

sys.path[0] = ""

import os  # noqa: E402
import runpy  # noqa: E402
import threading  # noqa: E402
import types  # noqa: E402

_LOGGERS = ("comfy_api_nodes.util.request_logger", "comfy_api_nodes.apis.request_logger")
"""Where ComfyUI 0.3.75 and 0.3.64 have what writes each request, headers and all, into a file of
the temp folder."""


def _leave_with_parent() -> None:
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass
    os._exit(3)


def _write_no_requests() -> None:
    for name in _LOGGERS:
        mute = sys.modules[name] = types.ModuleType(name)
        mute.log_request_response = lambda *_, **__: None  # type: ignore[attr-defined]


def main() -> None:
    """Run the script named by the first argument as if Python had been called with it."""
    script = os.path.abspath(sys.argv[1])  # noqa: PTH100 - keep start-up light
    sys.argv = sys.argv[1:]
    sys.path[0] = os.path.dirname(script)  # noqa: PTH120
    _write_no_requests()
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
