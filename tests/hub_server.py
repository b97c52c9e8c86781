"""A Hugging Face hub on this machine, to push to: the requests that `huggingface_hub` makes for it, and their answers.

Repositories live in memory. A commit is whole or not at all, as on the real hub: large files are uploaded first, by
their SHA-256, and a commit names them.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LARGE = (".safetensors", ".bin", ".pth", ".pkl")  # kept as large files, whatever their size
USER = "somebody"  # whom every token belongs to


class Hub(ThreadingHTTPServer):
    """`repositories[id]` is {path: bytes} as of the last commit, `commits[id]` the messages of all, oldest first."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = {}
        self.private = {}  # repository → what `create_repo` was told
        self.commits = {}
        self.uploaded = {}  # SHA-256 → bytes of large files, committed or not
        self.requests = []  # "METHOD /path"
        self.tokens = {"a-token"}  # that may write
        self.refused = {}  # start of "METHOD /path" → status it is answered with instead

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.handle_request()

    def do_GET(self):
        self.handle_request()

    def do_POST(self):
        self.handle_request()

    def do_PUT(self):
        self.handle_request()

    def handle_request(self):
        self.body = self.read_body()
        path = self.path.partition("?")[0]
        request = f"{self.command} {path}"
        self.server.requests.append(request)
        for start, status in self.server.refused.items():
            if request.startswith(start):
                return self.answer(status, {"error": f"refused with {status}"})
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, request):
                return method(self, *match.groups())
        return self.answer(404, {"error": f"no answer to {request}"})

    def read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, status, content=None, headers=()):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **dict(headers)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def may_write(self):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self.server.tokens:
            self.answer(401 if not token else 403, {"error": "Invalid credentials"})
        return token in self.server.tokens

    def create(self):
        if not self.may_write():
            return
        wanted = json.loads(self.body)
        repository = f"{wanted.get('organization') or USER}/{wanted['name']}"
        address = {"url": f"{self.server.address}/{repository}", "id": repository}
        if repository in self.server.repositories:
            return self.answer(409, {"error": "You already created this model repo", **address})
        self.server.repositories[repository], self.server.commits[repository] = {}, []
        self.server.private[repository] = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.answer(200, address)

    def check_card(self):
        """As the hub does, roughly: the head must be YAML between two lines of dashes."""
        head = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], re.DOTALL)
        self.answer(200 if head else 400, {"errors": [] if head else [{"message": "no head"}], "warnings": []})

    def say_modes(self, repository, _):
        if repository not in self.server.repositories:
            return self.missing("RepoNotFound")
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        self.answer(200, {"files": files})

    def say_where_large_files_go(self, _):
        objects = [
            {**file, "actions": {"upload": {"href": f"{self.server.address}/upload/{file['oid']}"}}}
            for file in json.loads(self.body)["objects"]
        ]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def upload(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.answer(400, {"error": "another checksum"})
        self.server.uploaded[oid] = self.body
        self.answer(200, {})

    def commit(self, repository, _):
        if not self.may_write():
            return
        files = dict(self.server.repositories[repository])
        for line in self.body.splitlines():
            key, value = (entry := json.loads(line))["key"], entry["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.server.uploaded[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        self.server.repositories[repository] = files
        self.server.commits[repository].append(message)
        oid = commit_id(self.server, repository)
        address = f"{self.server.address}/{repository}/commit/{oid}"
        self.answer(200, {"success": True, "commitOid": oid, "commitUrl": address})

    def list_files(self, repository, _):
        if repository not in self.server.repositories:
            return self.missing("RepoNotFound")
        files = self.server.repositories[repository].items()
        self.answer(200, [{"type": "file", "path": name, "size": len(body), "oid": "0" * 40} for name, body in files])

    def describe(self, repository):
        if repository not in self.server.repositories:
            return self.missing("RepoNotFound")
        siblings = [{"rfilename": name} for name in self.server.repositories[repository]]
        self.answer(200, {"id": repository, "sha": commit_id(self.server, repository), "siblings": siblings})

    def file(self, repository, _, name):
        content = self.server.repositories.get(repository, {}).get(name)
        if content is None:
            return self.missing("EntryNotFound" if repository in self.server.repositories else "RepoNotFound")
        headers = {
            "X-Repo-Commit": commit_id(self.server, repository),
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
        }
        self.answer(200, content, headers)

    def missing(self, code):
        self.answer(404, {"error": code}, {"X-Error-Code": code})

    def log_message(self, *_):
        pass


def commit_id(server, repository):
    return hashlib.sha1(f"{repository} {len(server.commits[repository])}".encode()).hexdigest()


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = (
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.check_card),
    (rf"POST /api/models/{NAME}/preupload/(\w+)", Handler.say_modes),
    (rf"POST /{NAME}\.git/info/lfs/objects/batch", Handler.say_where_large_files_go),
    (r"PUT /upload/(\w+)", Handler.upload),
    (rf"POST /api/models/{NAME}/commit/(\w+)", Handler.commit),
    (rf"GET /api/models/{NAME}/tree/(\w+)", Handler.list_files),
    (rf"GET /api/models/{NAME}(?:/revision/\w+)?", Handler.describe),
    (rf"(?:GET|HEAD) /{NAME}/resolve/(\w+)/(.+)", Handler.file),
)


@contextmanager
def local_hub(monkeypatch, home):
    """A hub that `huggingface_hub` talks to in this process, with a cache of its own below `home` and a token."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    constants = "huggingface_hub.constants."
    monkeypatch.setattr(constants + "ENDPOINT", hub.address)
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants + "HUGGINGFACE_CO_URL_TEMPLATE", template)
    # where older versions have a copy of it
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants + "HF_HOME", str(home))
    monkeypatch.setattr(constants + "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants + "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants + "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants + "HF_HUB_DISABLE_XET", True, raising=False)  # plain uploads
    monkeypatch.setenv("HF_TOKEN", "a-token")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
