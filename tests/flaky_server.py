"""A web server that fails as told, and the checksums of what it serves, for the tests of the downloads."""

import hashlib
import http.server
import re
import threading
import time


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` {path: bytes}; `faults` {path: [...]} are spent one with each request for that path."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.requests = {}, {}, []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def asked(self, path):
        """The Range headers (or None) with which a path has been asked for."""
        return [asked_range for asked, asked_range, _ in self.requests if asked == path]


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        server, path = self.server, self.path
        wanted = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        server.requests.append((path, wanted and wanted[0], time.monotonic()))
        fault = server.faults[path].pop(0) if server.faults.get(path) else None
        if isinstance(fault, int):
            self.send_response(fault)
            self.send_header("Retry-After", "1")
            self.end_headers()
            return
        if path not in server.files:
            self.send_error(404)
            return
        data = server.files[path]
        if fault == "truncated":  # a shorter file, sent as if it were whole
            data = data[: len(data) // 2]
        if fault == "garbled":
            data = bytes(len(data))
        first, last = 0, len(data)
        if wanted and fault != "no ranges":
            first, last = int(wanted[1]), int(wanted[2]) + 1 if wanted[2] else len(data)
            if first >= len(data):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", "video/mp4" if path.endswith(".mp4") else "application/octet-stream")
        self.send_header("Content-Length", str(last - first))
        self.end_headers()
        if fault == "drop":
            last = first + (last - first) // 3
        if body:
            self.wfile.write(data[first:last])


def md5(data):
    return "md5:" + hashlib.md5(data).hexdigest()
