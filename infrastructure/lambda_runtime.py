"""Lambda's Python runtime on this machine, with what a function finds there: its zip, boto3 and Lambda's client."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from infrastructure.uv import ROOT, uv

if TYPE_CHECKING:
    from collections.abc import Iterator

FUNCTION_ARN = "arn:aws:lambda:us-east-1:000000000000:function:email_lambda"
SECONDS = 60  # the function's timeout
IMPORT = """
import time
began = time.perf_counter()
import email_lambda.main
print(time.perf_counter() - began)
"""
CLIENT = """
from awslambdaric.__main__ import main
main(["bootstrap", {handler!r}])
"""


@dataclass(frozen=True)
class Runtime:
    """The zip and the packages of Lambda's runtime, unpacked. Nothing else can be imported."""

    folder: Path

    def python(self, code: str) -> list[str]:
        """Return a command that runs the code like a cold start, without this machine's packages and any old .pyc."""
        paths = [str(self.folder / name) for name in ("task", "runtime")]
        return [sys.executable, "-I", "-S", "-B", "-c", f"import sys; sys.path[:0] = {paths}\n{code}"]

    def import_seconds(self) -> float:
        """Return how long importing the functions takes. Raises CalledProcessError if they cannot be imported."""
        return float(subprocess.check_output(self.python(IMPORT), text=True, env={}))  # noqa: S603 (our own code)

    def invoke(self, handler: str, event: bytes) -> Answer:
        """Let Lambda's own client fetch the event, call the function and send its answer, which is returned."""
        with RuntimeApi(event) as api:
            environment = os.environ | {"AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{api.server_port}"}
            code = CLIENT.format(handler=handler)
            process = subprocess.Popen(self.python(code), env=environment, stdout=sys.stderr)  # noqa: S603 (our own code)
            try:
                while api.answer is None and process.poll() is None and time.time() < api.deadline:
                    api.handle_request()
            finally:
                process.kill()
                process.wait()
            return api.answer or Answer(b"the function ended or timed out without an answer", failed=True)


@dataclass(frozen=True)
class Answer:
    """What the function returned, or the error that it raised."""

    body: bytes
    failed: bool


@contextmanager
def unpacked(zip_file: Path) -> Iterator[Runtime]:
    """Unpack a runtime with this zip, and delete it when the context is left."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        requirements = folder / "requirements.txt"
        uv("export", "--frozen", "--only-group", "lambda-runtime", "--output-file", requirements)
        uv("pip", "install", "--target", folder / "runtime", "--require-hashes", "--requirements", requirements)
        with zipfile.ZipFile(zip_file) as archive:
            archive.extractall(folder / "task")
        yield Runtime(folder)


class RuntimeApi(HTTPServer):
    """Hands out one event and accepts the answer to it.

    Source: AWS Lambda Developer Guide, "Using the Lambda runtime API for custom runtimes".
    """

    timeout = 0.5  # for handle_request, because the process may have ended

    def __init__(self, event: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.event = event
        self.deadline = time.time() + SECONDS
        self.answer: Answer | None = None


class _Request(BaseHTTPRequestHandler):
    """A request of Lambda's client."""

    server: RuntimeApi

    def do_GET(self) -> None:
        """Send the event."""
        self.send_response(200)
        self.send_header("Lambda-Runtime-Aws-Request-Id", "local")
        self.send_header("Lambda-Runtime-Deadline-Ms", str(int(self.server.deadline * 1000)))
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", FUNCTION_ARN)
        self.send_header("Content-Type", "application/json")  # awslambdaric crashes without it
        self.send_header("Content-Length", str(len(self.server.event)))
        self.end_headers()
        self.wfile.write(self.server.event)

    def do_POST(self) -> None:
        """Accept the answer, or the error that the function or its import raised."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.answer = Answer(body, failed=not self.path.endswith("/response"))
        self.send_response(202)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    (handler,) = sys.argv[1:]
    with unpacked(ROOT / "email_lambda.zip") as runtime:
        answer = runtime.invoke(handler, sys.stdin.buffer.read())
    print(answer.body.decode(), file=sys.stderr if answer.failed else sys.stdout)
    sys.exit(answer.failed)


if __name__ == "__main__":
    main()
