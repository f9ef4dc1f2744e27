"""S3 and SageMaker's API as far as the launcher and the toolkit use them, on this machine."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Service(ThreadingHTTPServer):
    """Keeps what is put, and the requests to create a training job."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.jobs: list[dict] = []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def variables(self) -> dict[str, str]:
        """By which boto3 comes here instead of going out."""
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",  # not checked here
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",  # else it comes in chunks with a trailer
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def log_message(self, *_: object) -> None: ...

    def answer(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def do_PUT(self) -> None:
        self.server.objects[self.path] = self.body()
        self.answer(ETag='"1"')

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        stored = self.server.objects.get(self.path.partition("?")[0])
        self.answer(stored, ETag='"1"') if stored is not None else self.answer(status=404)

    def do_POST(self) -> None:
        assert self.headers["X-Amz-Target"] == "SageMaker.CreateTrainingJob"
        request = json.loads(self.body())
        self.server.jobs.append(request)
        arn = f"arn:aws:sagemaker:eu-west-1:123456789012:training-job/{request['TrainingJobName']}"
        self.answer(json.dumps({"TrainingJobArn": arn}).encode(), Content_Type="application/x-amz-json-1.1")
