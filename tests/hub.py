"""A fake of the hub's HTTP API, as far as huggingface_hub calls it to create a repository and upload folders."""

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_SecretTokenThatMustNotLeak"
OWNER = "me"


class Repository:
    def __init__(self, private: bool) -> None:
        self.private = private
        self.files: dict[str, bytes] = {}
        self.commits: list[str] = []


class FakeHub:
    """Repositories in memory, served by a thread.

    Attributes:
        repositories: By id.
        requests: ``<method> <path>`` of each request.
        error_statuses: Status by a part of ``<method> <path>``; the error message contains the token.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.error_statuses: dict[str, int] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Refuse further connections."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def create_repo(self, body: dict[str, Any]) -> tuple[int, Any]:
        repo_id = f"{body['organization'] or OWNER}/{body['name']}"
        response = {"url": f"{self.url}/{repo_id}", "name": repo_id}
        if repo_id in self.repositories:
            return 409, {"error": "You already created this model repo", **response}
        self.repositories[repo_id] = Repository(body.get("visibility") == "private" or bool(body.get("private")))
        return 200, response

    def preupload(self, body: dict[str, Any]) -> tuple[int, Any]:
        files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in body["files"]]
        return 200, {"files": files}

    def commit(self, repo_id: str, body: bytes) -> tuple[int, Any]:
        repository = self.repositories[repo_id]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repository.commits.append(value["summary"])
            else:
                repository.files[value["path"]] = base64.b64decode(value["content"])
        return 200, {"commitUrl": f"{self.url}/{repo_id}/commit/{len(repository.commits)}", "commitOid": "0" * 40}

    def respond(self, method: str, path: str, token: str | None, body: bytes) -> tuple[int, Any]:
        request = f"{method} {path}"
        self.requests.append(request)
        for piece, status in self.error_statuses.items():
            if piece in request:
                return status, {"error": f"rejected {token}"}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        if request == "POST /api/repos/create":
            return self.create_repo(json.loads(body))
        if request == "POST /api/validate-yaml":
            return 200, {}
        url_match = re.fullmatch(r"\w+ (?:/api/models)?/(\w+/[^/]+?)(/.*)?", request)
        repository = self.repositories.get(url_match[1]) if url_match else None
        if url_match is None or repository is None:
            return 404, {"error": "Repository not found"}
        match url_match[2]:
            case None:
                return 200, {"id": url_match[1], "private": repository.private, "sha": "0" * 40, "siblings": []}
            case "/auth-check/write":
                return 200, {}
            case "/preupload/main":
                return self.preupload(json.loads(body))
            case "/commit/main":
                return self.commit(url_match[1], body)
            case _:
                return 404, {"error": f"unknown request {request}"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _respond(self) -> None:
        status, content = self.hub.respond(self.command, self.path, self.headers["Authorization"], self._body())
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = _respond  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass
