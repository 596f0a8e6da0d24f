"""A Hub on this machine: what huggingface_hub asks for to fetch and to push, answered from a dictionary of files."""

import base64
import json
import re
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "a" * 40


class FakeHub:
    """Repositories by their id, each a dict of file name to bytes; ``refuse`` answers a path's start with a status."""

    def __init__(self):
        self.repositories, self.refuse, self.asked, self.tokens = {}, {}, [], set()
        self.cut = False

    def holds(self, name, folder):
        self.repositories[name] = {file.name: file.read_bytes() for file in folder.iterdir()}


@contextmanager
def serving(hub):
    """Serve the Hub at an address while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.answer()

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.answer(body)

        def answer(self, body=b""):
            path = self.path.partition("?")[0]
            hub.asked.append((self.command, path))
            hub.tokens.add(self.headers.get("Authorization"))
            for start, status in hub.refuse.items():
                if path.startswith(start):
                    return self.send(
                        status, {"error": "refused"}, {"X-Error-Code": "GatedRepo"} if status == 403 else {}
                    )
            if path == "/api/repos/create":
                wanted = json.loads(body)
                name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
                hub.repositories.setdefault(name, {})
                return self.send(200, {"url": f"http://{self.headers['Host']}/{name}"})
            if path == "/api/validate-yaml":
                return self.send(200, {"errors": [], "warnings": []})
            found = re.fullmatch(
                r"(?:/api/models)?/([^/]+/[^/]+?)(?:/(revision|tree|preupload|commit|resolve)/(.+))?", path
            )
            name, action, rest = found.groups() if found else ("", "", "")
            if name not in hub.repositories:
                return self.send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            files = hub.repositories[name]
            if action in (None, "revision"):
                if rest and rest not in ("main", COMMIT):
                    return self.send(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
                siblings = [{"rfilename": file} for file in files]
                return self.send(200, {"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
            if action == "tree":
                rows = [
                    {"type": "file", "path": f, "size": len(b), "oid": sha256(b).hexdigest()[:40]}
                    for f, b in files.items()
                ]
                return self.send(200, rows)
            if action == "preupload":
                wanted = [file["path"] for file in json.loads(body)["files"]]
                rows = [{"path": f, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for f in wanted]
                return self.send(200, {"files": rows})
            if action == "commit":
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                address = f"http://{self.headers['Host']}/{name}/commit/{COMMIT}"
                return self.send(200, {"commitUrl": address, "commitOid": COMMIT, "hookOutput": ""})
            file = rest.partition("/")[2]
            if file not in files:
                return self.send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            headers = {"ETag": f'"{sha256(files[file]).hexdigest()[:40]}"', "X-Repo-Commit": COMMIT}
            return self.send(200, files[file], headers)

        def send(self, status, body, headers=None):
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": len(body), **(headers or {})}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command != "HEAD":
                if hub.cut and "/resolve/" in self.path and self.path.endswith(".safetensors"):
                    self.wfile.write(body[: len(body) // 2])
                    self.close_connection = True
                    return
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
