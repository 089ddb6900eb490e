"""EC2 and Compute Engine on loopback, for what Ray's node providers do there."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

from moto.moto_api._internal import moto_api_backend
from moto.server import ThreadedMotoServer


class Ec2:
    """Stands before moto's application: notes the action of each request, and refuses some.

    Attributes:
        environment: In which boto3 finds it.
        actions: What was asked for, such as `RunInstances`.
        refused: Actions that are answered with this error's code.
    """

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app, self.actions, self.refused = app, set[str](), dict[str, str]()
        self.environment: dict[str, str] = {}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> object:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        action = parse_qs(body.decode(errors="replace")).get("Action", [""])[0]
        self.actions.add(action)
        if action not in self.refused:
            return self.app(environ, start_response)
        start_response("400 Bad Request", [("Content-Type", "text/xml")])
        error = f"<Error><Code>{self.refused[action]}</Code><Message>We have none.</Message></Error>"
        return [f"<Response><Errors>{error}</Errors><RequestID>1</RequestID></Response>".encode()]


@contextmanager
def ec2() -> Iterator[Ec2]:
    """A cloud of its own."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    cloud = server._server.app = Ec2(server._server.app)
    host, port = server.get_host_and_port()
    cloud.environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "hush-hush",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    try:
        yield cloud
    finally:
        server.stop()
        moto_api_backend.reset()  # what it holds belongs to the process


class ComputeEngine(ThreadingHTTPServer):
    """A machine's metadata server, which hands out its service account's token, and the few methods that Ray calls.

    Attributes:
        address: Of it.
        instances: By name.
        methods: What was called, such as `instances.insert`.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"127.0.0.1:{self.server_port}"
        self.instances: dict[str, dict[str, Any]] = {}
        self.methods: set[str] = set()

    def answer(self, verb: str, path: str, body: dict[str, Any]) -> Any:
        if "computeMetadata" in path:
            scopes = ["https://www.googleapis.com/auth/cloud-platform"]
            account = {"email": "head@p.iam.gserviceaccount.com", "scopes": scopes, "aliases": ["default"]}
            token = {"access_token": "token", "expires_in": 3600, "token_type": "Bearer"}
            texts = {"project-id": "p", "universe-domain": "googleapis.com"}
            text = texts.get(path.partition("?")[0].rpartition("/")[2])
            return text or (token if "token" in path else account)
        if "/operations/" in path:
            self.methods.add("zoneOperations.get")
            return {"name": "done", "status": "DONE"}
        name = re.search(r"/instances/([^/?]+)", path)
        if verb == "GET":
            self.methods.add("instances.get" if name else "instances.list")
            return self.instances[name[1]] if name else {"items": [*self.instances.values()]}
        if verb == "POST" and name is None:
            self.methods.add("instances.insert")
            self.instances[body["name"]] = body | {
                "status": "RUNNING",
                "labelFingerprint": "x",
                "networkInterfaces": [],
            }
        elif verb == "DELETE" and name:
            self.methods.add("instances.delete")
            del self.instances[name[1]]
        elif name:
            self.methods.add(f"instances.{path.partition('?')[0].rpartition('/')[2]}")
            self.instances[name[1]]["labels"] = body["labels"]
        return {"name": "done", "status": "DONE"}


class _Handler(BaseHTTPRequestHandler):
    server: ComputeEngine

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        said = self.server.answer(self.command, self.path, body)
        text = said if isinstance(said, str) else json.dumps(said)
        self.send_response(200)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Type", "text/plain" if isinstance(said, str) else "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = do_DELETE = _answer

    def log_message(self, *arguments: Any) -> None:
        """Not needed."""


@contextmanager
def compute_engine() -> Iterator[ComputeEngine]:
    """Another one."""
    server = ComputeEngine()
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
