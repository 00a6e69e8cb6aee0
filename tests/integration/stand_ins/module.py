"""A module as a process of its own: answers GET at once, POST after it has written the path to a file. Ends by kill only.

Usage: module.py PORT FILE
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    done: Path

    def do_GET(self) -> None:
        self._answer(200)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        with self.done.open("a") as done:
            done.write(self.path + "\n")
        self._answer(201)

    def _answer(self, status: int) -> None:
        self.wfile.write(f"HTTP/1.1 {status} Fine\r\nContent-Length: 2\r\n\r\nok".encode())

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 1024


if __name__ == "__main__":
    Handler.done = Path(sys.argv[2])
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
