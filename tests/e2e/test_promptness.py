"""Answers leave at once: no accepted connection waits for its other side before it sends the rest."""

import asyncio
import socket

import pytest

pytest.importorskip("uvicorn", reason="uvicorn, of the extra `serve`, is not installed")

from hm4sr.errors import UserError
from hm4sr.serving.http import server as module
from hm4sr.serving.http.settings import ServeConfig


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_accepted_connections_do_not_gather_small_pieces(host):
    try:
        listener = module._bind(ServeConfig(host=host, port=0))
    except UserError as error:
        pytest.skip(f"this machine has no {host} ({error})")
    with listener:
        assert asyncio.run(_accepted_with_nodelay(listener))


async def _accepted_with_nodelay(listener: socket.socket) -> bool:
    answer = asyncio.get_running_loop().create_future()

    class Look(asyncio.Protocol):
        def connection_made(self, transport):
            accepted = transport.get_extra_info("socket")
            answer.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0)
            transport.close()

    server = await asyncio.get_running_loop().create_server(Look, sock=listener)
    async with server:
        with socket.create_connection(listener.getsockname()[:2]):
            return await asyncio.wait_for(answer, 10)
