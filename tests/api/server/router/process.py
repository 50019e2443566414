"""A process that speaks as those of models do, and starts in a moment: the standard library alone.

``python process.py`` reads what to serve from stdin. Fields of a request's body say what it does:
``wait`` so many seconds, ``die`` before or (with ``lines``) while it answers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WANTED = json.loads(sys.stdin.readline())
signal.signal(signal.SIGINT, signal.SIG_IGN)


def tell(**message: Any) -> None:
    print(json.dumps(message), flush=True)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def _reply(self, status: int, data: Any) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.headers["Authorization"] != f"Bearer {WANTED['key']}":
            self._reply(401, {})
        elif self.path == "/v1/models":
            self._reply(200, {"data": [{"id": WANTED["name"], "meta": {"n_ctx": 7}}]})
        elif self.path.startswith("/v1/responses/"):
            is_here = self.path.split("/")[3].endswith(WANTED["name"])
            self._reply(200 if is_here else 404, {"id": WANTED["name"]})
        else:
            self._reply(200, {"path": self.path, "model": WANTED["name"], "pid": os.getpid()})

    do_DELETE = do_GET

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        n_lines = body.get("lines", 0)
        if n_lines:
            self.send_response(200)
            self.send_header("Content-Type", body.get("type", "text/event-stream"))
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for i in range(n_lines):
                line = f"data: {i}\n\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                time.sleep(body.get("wait", 0))
                if body.get("die") and i == n_lines // 2:
                    os._exit(3)
            self.wfile.write(b"0\r\n\r\n")
            return
        time.sleep(body.get("wait", 0))
        if body.get("die") == "always" or (body.get("die") and _is_first(body["die"])):
            os._exit(3)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._reply(200, {"model": WANTED["name"], "pid": os.getpid(), "headers": headers})


def _is_first(marker: str) -> bool:
    """Return whether no process has died for a marker yet; ``die`` is the path of its file."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def main() -> None:
    orders = WANTED["orders"]
    for text in orders.get("notes", []):
        tell(note=text)
    time.sleep(orders.get("load_s", 0))
    if "error" in orders:
        tell(error=orders["error"], hint="look elsewhere")
        sys.exit(1)
    if "exit" in orders:
        os.kill(os.getpid(), orders["exit"])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    tell(ready=server.server_address[1])
    while sys.stdin.read(1):
        pass


if __name__ == "__main__":
    main()
