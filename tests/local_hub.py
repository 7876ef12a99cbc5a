"""A hub of models on this machine, for tests: what huggingface_hub asks of one to upload and download a repository."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 39 + "1"


class LocalHub(ThreadingHTTPServer):
    """`files`: {repository: {path: content}}. Its address goes into HF_ENDPOINT."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {}
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _answer(self, content, headers=None, status=200):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self):
        files, path = self.server.files, self.path.split("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/[^/]+)?", path):
            siblings = [{"rfilename": name} for name in files.get(found[1], {})]
            self._answer({"id": found[1], "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            self._answer([
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.get(found[1], {}).items()
            ])  # fmt: skip
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            content = files.get(found[1], {}).get(found[2])
            if content is None:
                return self._answer({"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"}, 404)
            self._answer(content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})
        else:
            self._answer({"error": "unknown"}, status=404)

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        repository = self.path.split("/api/models/")[-1].rsplit("/", 2)[0]
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            self.server.files.setdefault(name, {})
            self._answer({"url": f"{self.server.address}/{name}", "name": name})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            plain = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]
            self._answer({"files": plain})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files[repository][line["value"]["path"]] = content
            self._answer({"commitUrl": f"{self.server.address}/{repository}/commit/{COMMIT}", "commitOid": COMMIT})
        else:  # the check of a model card
            self._answer({"errors": [], "warnings": []})
