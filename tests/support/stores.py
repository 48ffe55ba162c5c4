"""Object stores on loopback, and the environment in which the clients find them.

    with stores.s3() as store: ...      moto's server (Apache-2.0)
    with stores.gcs() as store: ...     gcp-storage-emulator (MIT), with the precondition that it lacks

`refuse` is called with method and path of each request; where it returns True, the answer is 403.
"""

import contextlib
import io
import json
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

import pytest

BUCKET = "results"


@dataclass
class Store:
    """A server: the address of its bucket, and the variables that lead a client to it."""

    root: str
    environment: dict[str, str]
    refuse: Callable[[str, str], bool] | None = None
    requests: list[str] = field(default_factory=list)
    objects: Callable[[], dict[str, bytes]] = dict  # key -> content, read inside the server

    def refused(self, method: str, path: str) -> bool:
        self.requests.append(f"{method} {path}")
        return self.refuse is not None and self.refuse(method, path)


@contextlib.contextmanager
def s3() -> Iterator[Store]:
    """An S3 server with the bucket `BUCKET`."""
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server
    from werkzeug.wrappers import Response

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = DomainDispatcherApplication(create_backend_app)
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    store = Store(f"s3://{BUCKET}", keys)

    def counted(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if store.refused(environment["REQUEST_METHOD"], environment["PATH_INFO"]):
            return Response(status=403)(environment, start)
        return application(environment, start)

    server = make_server("127.0.0.1", 0, counted, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    store.environment["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{server.server_port}"
    client = boto3.client(
        "s3",
        endpoint_url=store.environment["AWS_ENDPOINT_URL"],
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)

    def objects() -> dict[str, bytes]:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        names = [one["Key"] for page in pages for one in page.get("Contents", ())]
        return {name: client.get_object(Bucket=BUCKET, Key=name)["Body"].read() for name in names}

    store.objects = objects
    try:
        yield store
    finally:
        server.shutdown()


@contextlib.contextmanager
def gcs() -> Iterator[Store]:
    """A server of Google's JSON API with the bucket `BUCKET`."""
    from gcp_storage_emulator import server as emulator
    from gcp_storage_emulator.handlers import buckets
    from gcp_storage_emulator.storage import Storage

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    storage = Storage(use_memory_fs=True)
    buckets.create_bucket(BUCKET, storage)
    store = Store(f"gs://{BUCKET}", {"NO_GCE_CHECK": "true"})  # nobody looks for a metadata server for three seconds
    one_at_a_time = threading.Lock()

    class Handler(emulator.RequestHandler):  # type: ignore[misc]
        """Adds `ifGenerationMatch=0`, which the emulator ignores."""

        rfile: Any

        def do_GET(self) -> None:  # noqa: N802
            self._answer(super().do_GET)

        def do_DELETE(self) -> None:  # noqa: N802
            self._answer(super().do_DELETE)

        def do_POST(self) -> None:  # noqa: N802
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.rfile = io.BytesIO(body)
            query = parse_qs(urlparse(self.path).query)
            named = re.search(rb'"name": *("(?:[^"\\]|\\.)*")', body)
            name = query["name"][0] if "name" in query else json.loads(named[1]) if named else ""
            exclusive = query.get("ifGenerationMatch") == ["0"]
            self._answer(super().do_POST, unquote(name), exclusive)

        def _answer(self, usual: Callable[[], None], name: str = "", exclusive: bool = False) -> None:
            if store.refused(self.command, f"/{name}" if name else self.path):
                self._fail(403)
                return
            with one_at_a_time:
                self._fail(412) if exclusive and _exists(storage, name) else usual()

        def _fail(self, status: int) -> None:
            answer = json.dumps({"error": {"code": status, "message": "refused"}}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    from http.server import ThreadingHTTPServer

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, storage))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    store.environment["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{server.server_port}"
    try:
        yield store
    finally:
        server.shutdown()


def _exists(storage: Any, name: str) -> bool:
    from gcp_storage_emulator.exceptions import NotFound

    try:
        storage.get_file_obj(BUCKET, name)
    except NotFound:
        return False
    return True


def use(store: Store, monkeypatch: pytest.MonkeyPatch, cache: Any) -> None:
    """Lead this process to the server; `cache` is the folder of local copies."""
    from ine_jax.storage.bucket import client

    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("INE_BUCKET_CACHE", str(cache))
    client._client.cache_clear()
