"""What every request passes: host, token, load and size before; headers, logs and metrics after."""

import asyncio
import hmac
import json
import logging
import time
import uuid
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hm4sr.serving.http.service import RefusedError, Service

logger = logging.getLogger("hm4sr.requests")

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
]
_STRICT = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_NO_STORE = (b"cache-control", b"no-store")
OPEN_PATHS = frozenset({"/", "/health/live", "/health/ready"})
"""Answered without a token, as are the files of the page, which holds nothing but forms."""


class Guard:
    """Middleware (ASGI) around the application."""

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.service = app, service
        self._hosts = service.config.allowed_hosts
        self._now = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = _Request(scope, send)
        try:
            await self._answer(scope, receive, request)
        except RefusedError as refused:
            await request.refuse(refused)
        except Exception:
            request.status = 500
            raise
        finally:
            self._tell(scope, request)

    async def _answer(self, scope: Scope, receive: Receive, request: "_Request") -> None:
        headers = dict(scope["headers"])
        limits = self.service.config.limits
        self._check_host(headers.get(b"host", b""))
        path = str(scope["path"])
        if path not in OPEN_PATHS and not path.startswith("/page/"):
            self._check_token(headers.get(b"authorization", b""))
        if path.startswith("/health/") or path == "/metrics":
            await self.app(scope, receive, request.send)
            return
        if self._now >= limits.in_flight:
            raise self._refused("load", 503, "too many requests at a time: try again in a second.")
        self._now += 1
        self.service.metrics.in_flight.set(self._now)
        try:
            body = await self._read(headers.get(b"content-length", b""), receive)
            await self.app(scope, _replay(body, receive), request.send)
        finally:
            self._now -= 1
            self.service.metrics.in_flight.set(self._now)

    def _check_host(self, header: bytes) -> None:
        host = header.decode("latin-1").lower()
        name = host if host.endswith("]") else host.rsplit(":", 1)[0] if ":" in host else host
        if self._hosts and name not in self._hosts:
            raise self._refused(
                "host", 400, "the request is addressed to another host: see the setting hosts."
            )

    def _check_token(self, header: bytes) -> None:
        if self.service.token is None:
            return
        kind, _, given = header.partition(b" ")
        if not (hmac.compare_digest(given.strip(), self.service.token) and kind.lower() == b"bearer"):
            raise self._refused(
                "token", 401, "the token is missing or wrong: send Authorization: Bearer TOKEN."
            )

    async def _read(self, announced: bytes, receive: Receive) -> bytes:
        """The whole body, within its limits of size and time."""
        limits = self.service.config.limits
        if announced.isdigit() and int(announced[:20]) > limits.body_bytes:
            raise self._too_large()
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(limits.deadline_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise self._refused("gone", 400, "the client went away.")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limits.body_bytes:
                        raise self._too_large()
                    more = message.get("more_body", False)
        except TimeoutError:
            raise self._refused("slow", 408, "the body did not arrive in time: send it faster.") from None
        return b"".join(parts)

    def _too_large(self) -> RefusedError:
        most = self.service.config.limits.body_bytes
        return self._refused("size", 413, f"the body exceeds {most:,} bytes: send several requests.")

    def _refused(self, reason: str, status: int, sentence: str) -> RefusedError:
        self.service.metrics.refused.labels(reason).inc()
        return RefusedError(status, sentence)

    def _tell(self, scope: Scope, request: "_Request") -> None:
        seconds = time.perf_counter() - request.started
        route = str(getattr(scope.get("route"), "path", "none"))
        self.service.metrics.observe(scope["method"], route, request.status, seconds)
        fields = {
            "request": request.id,
            "route": route,
            "status": request.status,
            "milliseconds": round(1000 * seconds, 2),
        }
        logger.info("request", extra={"fields": fields})


class _Request:
    """One request on its way: its number, its status, and the headers of its answer."""

    def __init__(self, scope: Scope, send: Send):
        self.id = uuid.uuid4().hex
        self.started = time.perf_counter()
        self.status = 0
        self._send = send

    async def send(self, message: Message) -> None:
        """Pass a message on, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), *_HEADERS, (b"x-request-id", self.id.encode())]
            names = {name.lower() for name, _ in headers}
            headers += [header for header in (_STRICT, _NO_STORE) if header[0] not in names]
            message = {**message, "headers": headers}
        await self._send(message)

    async def refuse(self, refused: RefusedError) -> None:
        """Answer with one sentence; the connection ends where the body was not read."""
        if self.status:
            return
        body = problem(refused.sentence)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(name.encode(), value.encode()) for name, value in extra_headers(refused.status).items()]
        if refused.status in (408, 413):
            headers.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": refused.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _replay(body: bytes, receive: Receive) -> Receive:
    """A channel that gives a body that was read already, and then what comes."""
    told = False

    async def replayed() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def problem(sentence: str) -> bytes:
    """The body of a refusal."""
    content: dict[str, Any] = {"error": sentence}
    return json.dumps(content).encode("ascii")


def extra_headers(status: int) -> dict[str, str]:
    """Headers that belong to a status."""
    if status == 503:
        return {"retry-after": "1"}
    return {"www-authenticate": "Bearer"} if status == 401 else {}
