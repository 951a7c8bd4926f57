"""What a hostile board runs in place of `docker system dial-stdio`: an engine that says what it is told to.

    python engine_of_lies.py ANSWERS

ANSWERS: a JSON file, a list of [regular expression of a path, answer]. It speaks HTTP on stdin and stdout,
and writes what it is told to ANSWERS.told.
"""

from __future__ import annotations

import json
import re
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answers: Any = ()
    told = Path()

    def __init__(self) -> None:
        self.rfile, self.wfile = sys.stdin.buffer, sys.stdout.buffer
        self.client_address = ("nobody", 0)
        self.close_connection = False
        while not self.close_connection:
            self.handle_one_request()

    def answer(self) -> None:
        with self.told.open("ab") as told:
            told.write(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        body = next((text for path, text in self.answers if re.search(path, self.path)), None)
        data = ('{"message": "no such image"}' if body is None else body).encode("utf-8", "surrogateescape")
        self.send_response(404 if body is None else 200)
        self.send_header("Api-Version", "1.41")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.wfile.flush()

    do_GET = do_HEAD = do_POST = do_DELETE = answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


if __name__ == "__main__":
    Handler.answers = json.loads(Path(sys.argv[1]).read_text())
    Handler.told = Path(f"{sys.argv[1]}.told")
    Handler()
