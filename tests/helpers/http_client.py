"""A small HTTP/1.1 client on asyncio streams, and the example service as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVICE = Path(__file__).resolve().parents[2] / "examples" / "service"


class Connection:
    """One connection that is kept open. What breaks it raises OSError or EOFError."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def begin(self, method: str, path: str, body: bytes, *, send: int | None = None) -> None:
        """Send a request, or only its start and wait until the service asks for the body."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 26)
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n"
        if send is not None:
            head += "Expect: 100-continue\r\n"
        reader, writer = self._streams
        writer.write(f"{head}\r\n".encode())
        if send is not None:
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(body[:send])

    async def end(self, rest: bytes = b"") -> tuple[int, Any]:
        """Send the rest of a body, and return status and JSON of the answer."""
        assert self._streams is not None
        reader, writer = self._streams
        writer.write(rest)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        length = next((int(line[15:]) for line in head if line.startswith("content-length:")), 0)
        body = await reader.readexactly(length)
        return int(head[0].split()[1]), json.loads(body) if body.startswith(b"{") else None

    async def refused(self) -> None:
        """Wait until the port is free again."""
        while True:
            try:
                writer = (await asyncio.open_connection("127.0.0.1", self._port))[1]
            except OSError:
                return
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            await asyncio.sleep(0.01)

    async def request(self, method: str, path: str, value: Any = None) -> tuple[int, Any]:
        """Send a request and return status and JSON of the answer."""
        await self.begin(method, path, b"" if value is None else json.dumps(value).encode())
        return await self.end()

    async def close(self) -> None:
        """Close; the next request opens it again."""
        if self._streams is not None:
            writer, self._streams = self._streams[1], None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@dataclass(frozen=True)
class Service:
    """A service that runs."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> Any:
        """Return what a GET request is answered, as text or JSON."""
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            text = answer.read().decode()
            return (
                json.loads(text) if answer.headers["content-type"] == "application/json" else text
            )


@contextlib.contextmanager
def running(*command: str, folder: Path, **variables: str) -> Iterator[Service]:
    """Run `command` in the service's folder until the block ends. {port} is a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "service.log"
    environment = {**os.environ, "BIND": f"127.0.0.1:{port}", **variables}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *(part.format(port=port) for part in command)],
            cwd=SERVICE,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    service = Service(process, port, log)
    try:
        _await_start(service)
        yield service
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_start(service: Service) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            service.get("/healthz")
            return
        except (urllib.error.URLError, OSError):
            if service.process.poll() is not None or time.monotonic() > until:
                raise AssertionError(
                    f"the service does not start:\n{service.log.read_text()}"
                ) from None
            time.sleep(0.1)
