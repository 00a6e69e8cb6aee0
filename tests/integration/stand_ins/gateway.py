"""Stands in for the gateway: answers 200 to everything, on the socket it was handed."""

import os
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"{os.getpid()} {os.environ['UPLIFT_DATABASE_URL']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=int(os.environ["UPLIFT_LISTEN_FD"]))
    server.socket.settimeout(None)
    server.serve_forever()
