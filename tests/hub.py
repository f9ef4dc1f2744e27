"""A stand-in for the hub's HTTP API: what huggingface_hub calls to make a repository and upload folders."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_SecretTokenThatNobodyMaySee"
OWNER = "me"
LARGE = ".safetensors"


class Repository:
    def __init__(self, private: bool) -> None:
        self.private = private
        self.files: dict[str, bytes] = {}
        self.commits: list[str] = []


class Hub:
    """Repositories in memory, behind a server in a thread.

    Attributes:
        repositories: By id.
        requests: ``<method> <path>`` of each that came.
        answers: Status to answer with by a piece of ``<method> <path>``; the error repeats the request's token.
        large_files_apart: Whether weights are asked for as LFS objects, as the real hub does where xet is off.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.answers: dict[str, int] = {}
        self.large_files_apart = False
        self.objects: dict[str, bytes] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """From now on connections are refused."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def create(self, body: dict[str, Any]) -> tuple[int, Any]:
        repo_id = f"{body['organization'] or OWNER}/{body['name']}"
        answer = {"url": f"{self.url}/{repo_id}", "name": repo_id}
        if repo_id in self.repositories:
            return 409, {"error": "You already created this model repo", **answer}
        self.repositories[repo_id] = Repository(body.get("visibility") == "private" or bool(body.get("private")))
        return 200, answer

    def upload_modes(self, body: dict[str, Any]) -> tuple[int, Any]:
        files = []
        for path in (file["path"] for file in body["files"]):
            large = self.large_files_apart and path.endswith(LARGE)
            files.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False})
        return 200, {"files": files}

    def large_files(self, body: dict[str, Any]) -> tuple[int, Any]:
        return 200, {
            "transfer": "basic",
            "objects": [{**file, "actions": {"upload": {"href": f"{self.url}/objects"}}} for file in body["objects"]],
        }

    def commit(self, repo_id: str, body: bytes) -> tuple[int, Any]:
        repository = self.repositories[repo_id]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repository.commits.append(value["summary"])
            elif line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            else:
                repository.files[value["path"]] = self.objects[value["oid"]]
        return 200, {"commitUrl": f"{self.url}/{repo_id}/commit/{len(repository.commits)}", "commitOid": "0" * 40}

    def answer(self, method: str, path: str, token: str | None, body: bytes) -> tuple[int, Any]:
        request = f"{method} {path}"
        self.requests.append(request)
        for piece, status in self.answers.items():
            if piece in request:
                return status, {"error": f"no, said the hub to {token}"}
        if request == "PUT /objects":  # signed, so without a token
            self.objects[hashlib.sha256(body).hexdigest()] = body
            return 200, {}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        if request == "POST /api/repos/create":
            return self.create(json.loads(body))
        if request == "POST /api/validate-yaml":
            return 200, {}
        named = re.fullmatch(r"\w+ (?:/api/models)?/(\w+/[^/]+?)(?:\.git/info/lfs/objects)?(/.*)?", request)
        repository = self.repositories.get(named[1]) if named else None
        if named is None or repository is None:
            return 404, {"error": "Repository not found"}
        match named[2]:
            case None:
                return 200, {"id": named[1], "private": repository.private, "sha": "0" * 40, "siblings": []}
            case "/auth-check/write":
                return 200, {}
            case "/preupload/main":
                return self.upload_modes(json.loads(body))
            case "/batch":
                return self.large_files(json.loads(body))
            case "/commit/main":
                return self.commit(named[1], body)
            case _:
                return 404, {"error": f"{request} is not known here"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self) -> None:
        status, content = self.hub.answer(self.command, self.path, self.headers["Authorization"], self._body())
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = _answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass
