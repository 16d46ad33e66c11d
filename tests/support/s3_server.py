"""A server that speaks S3, in a process of its own, behind a connection that can be cut."""

import contextlib
import importlib.util
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress

from ports import free_ports

NEEDED = ("moto", "flask", "flask_cors", "s3fs")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
_SERVE = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"


class S3Server:
    """moto's server with one bucket, `bucket`. `environment` is for programs that are to reach it."""

    def __init__(self) -> None:
        self.own_port, self.port = free_ports(2)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(self.own_port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",  # of the library itself, which would take half a minute for each of ours
        }
        self._cut_at: bytes | None = None
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []
        for _ in range(200):
            with suppress(OSError):
                self._ask("bucket", "PUT")
                break
            time.sleep(0.1)
        self.connect()

    def read(self, name: str) -> bytes:
        """An object, asked of the server itself."""
        import boto3

        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.own_port}", **keys)
        with contextlib.closing(client):
            return client.get_object(Bucket="bucket", Key=name)["Body"].read()

    def names(self, folder: str) -> list[str]:
        """The objects of a folder."""
        listing = self._ask(f"bucket?list-type=2&prefix={folder}/&max-keys=1000", "GET").decode()
        return [part.split("</Key>")[0] for part in listing.split("<Key>")[1:]]

    def connect(self) -> None:
        """Let connections through."""
        self._cut_at = None
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut_at(self, request: bytes) -> None:
        """Cut all connections, and let no other through, as soon as a request has this in it, which does not arrive."""
        self._cut_at = request

    def cut(self) -> None:
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open = []

    def stop(self) -> None:
        self.cut()
        self.process.kill()
        self.process.wait()

    def _ask(self, path: str, method: str) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self.own_port}/{path}", method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self.own_port))
                self._open += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(1 << 16):
                if self._cut_at is not None and self._cut_at in content:
                    self.cut()
                    return
                target.sendall(content)
            target.shutdown(socket.SHUT_WR)
