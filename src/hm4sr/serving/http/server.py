"""The process: load, listen, reload on SIGHUP, stop on SIGTERM."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from hm4sr.errors import UserError
from hm4sr.runtime import keep_freed_memory
from hm4sr.serving.http.app import create_app
from hm4sr.serving.http.logs import log_as_json
from hm4sr.serving.http.metrics import Metrics
from hm4sr.serving.http.runs import Runs, RunSource
from hm4sr.serving.http.service import Service
from hm4sr.serving.http.settings import ServeConfig, read_token

logger = logging.getLogger(__name__)


def serve(sources: Sequence[RunSource], config: ServeConfig) -> None:
    """Serve runs until SIGTERM or SIGINT; SIGHUP loads them anew.

    Raises:
        UserError: a run cannot be loaded, the token is missing, or the address cannot be listened on.
    """
    token = read_token(config)
    listener = _bind(config)
    with listener:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what is being loaded is the newest there is
        keep_freed_memory()
        if config.threads:
            torch.set_num_threads(config.threads)
        metrics = Metrics()
        service = Service(config, Runs(sources, config.index, metrics), metrics, token)
        log_as_json()
        try:
            _Server(service).run(sockets=[listener])
        finally:
            service.close()
            logger.info("stopped")


def _bind(config: ServeConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # Named as TCP, or asyncio leaves Nagle's algorithm on: head and body of an answer leave in two pieces,
    # and the second one then waits 40 ms for the other side to acknowledge the first.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise UserError(
            f"{config.host} port {config.port} cannot be listened on ({error.strerror or error}): "
            "choose another --host or --port."
        ) from error
    return listener


class _Server(uvicorn.Server):
    """Uvicorn that leaves its signals to the event loop."""

    def __init__(self, service: Service):
        config = service.config
        super().__init__(
            uvicorn.Config(
                create_app(service),
                http=_patient(config.limits.header_seconds),
                ws="none",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=config.limits.connections,
                timeout_keep_alive=config.limits.idle_seconds,
                timeout_graceful_shutdown=int(config.stop_seconds),
            )
        )
        self._service = service
        self._reload: asyncio.Task[bool] | None = None
        self._again = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn; tells where it listens."""
        await super().startup(sockets)
        host, port = (sockets or [])[0].getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        logger.info(f"listening on {url}", extra={"fields": {"runs": list(self._service.runs.loaded)}})

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT, load anew on SIGHUP; the process then ends with code 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._load_anew)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _stop(self, number: int) -> None:
        logger.info("stopping")
        self._service.stopping = True
        self.handle_exit(number, None)

    def _load_anew(self) -> None:
        """Begin a reload; a signal during one asks for another one after it."""
        if self._reload is not None and not self._reload.done():
            self._again = True
            return
        self._again = False
        self._reload = asyncio.create_task(asyncio.to_thread(self._service.runs.reload))
        self._reload.add_done_callback(lambda _: self._load_anew() if self._again else None)


def _patient(seconds: float) -> type[asyncio.Protocol]:
    """Uvicorn's HTTP with a limit to the time in which a request's headers must arrive.

    Uvicorn itself limits only the time between two requests of a connection.
    """

    class Protocol(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            waiting = self.cycle is None or self.cycle.response_complete
            if not waiting and self._late is not None:
                self._late.cancel()
                self._late = None
            elif waiting and self._late is None:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._late is not None:
                self._late.cancel()
            super().connection_lost(exc)

        def _wait(self) -> None:
            self._late = self.loop.call_later(seconds, self._expire)

        def _expire(self) -> None:
            self._late = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Protocol
