"""Connections to addresses that strangers wrote into a catalogue: https, to public hosts, and no further.

The address that was checked is the one that is connected to, so a name that answers differently the second
time gains nothing; every redirect is checked anew. Proxies are not used, since they would resolve names.
"""

import contextlib
import http.client
import ipaddress
import math
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

REDIRECTS = 5
_CHUNK = 1 << 14
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_STALLED = 10.0
"""Seconds without a byte before a connection is given up."""


class FetchError(Exception):
    """Why an address gave nothing.

    Attributes:
        lasting: whether another attempt would end the same way.
        wait: seconds the server asks to wait.
    """

    def __init__(self, reason: str, lasting: bool, wait: float | None = None):
        super().__init__(reason)
        self.lasting, self.wait = lasting, wait


def is_public(address: Address) -> bool:
    """Whether an IP address is a public unicast one, and so is what it may embed."""
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        if address in _NAT64:
            mapped = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if mapped is not None:
            return is_public(mapped)
        inner = [address.sixtofour, *(address.teredo or ())]
        if any(part is not None and not is_public(part) for part in inner):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


@dataclass(frozen=True)
class Policy:
    """What may be asked for; the default is the only one that commands use.

    Attributes:
        scheme: of addresses.
        ports: that may be connected to.
        allows: whether an IP address may be connected to.
    """

    scheme: str = "https"
    ports: tuple[int, ...] = (443,)
    allows: Callable[[Address], bool] = is_public


def check(url: str, policy: Policy) -> tuple[str, int, str]:
    """Host, port and path of an address that the policy accepts.

    Raises:
        FetchError: it is no address, or not one to ask.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
        host = host.encode("idna").decode() if host and not host.isascii() else host
    except (ValueError, UnicodeError) as error:
        raise FetchError("is not an address", lasting=True) from error
    if parts.scheme != policy.scheme:
        raise FetchError(f"is not an {policy.scheme} address", lasting=True)
    if not host or parts.username is not None or any(mark.isspace() for mark in host):
        raise FetchError("is not an address", lasting=True)
    port = port or http.client.HTTPS_PORT
    if policy.ports and port not in policy.ports:
        raise FetchError(f"asks for port {port}", lasting=True)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return host, port, quote(path, safe="/%:@!$&'()*+,;=~-._?[]")


class _CheckedConnection(http.client.HTTPConnection):
    """Connects to an IP address that the policy allows; TLS still asks for the host's name."""

    default_port = http.client.HTTPS_PORT

    def __init__(self, host: str, port: int, policy: Policy):
        super().__init__(host, port, timeout=_STALLED)
        self.policy, self.deadline = policy, math.inf

    def connect(self) -> None:
        self.sock = _connect(self.host, self.port, self.policy, self.deadline)
        if self.policy.scheme != "https":
            return
        # The handshake comes when the socket has its place here, where a timer finds it to cut: each byte in
        # time, a handshake can take hours.
        secured = _context().wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock = secured
        _left(self.deadline)
        secured.do_handshake()


@cache
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()


def _connect(host: str, port: int, policy: Policy, deadline: float) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(place[0]).partition("%")[0]) for *_, place in found]
    refused = [address for address in addresses if not policy.allows(address)]
    if refused or not addresses:
        raise FetchError(f"leads to {refused[0] if refused else 'nowhere'}, no public address", lasting=True)
    failure: OSError = OSError("no address")
    for address in addresses:
        try:
            sock = socket.create_connection((str(address), port), min(_STALLED, _left(deadline)))
            sock.settimeout(_STALLED)
            return sock
        except OSError as error:
            failure = error
    raise failure


def _left(deadline: float) -> float:
    """Seconds until a moment on the monotonic clock.

    Raises:
        TimeoutError: it has passed.
    """
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


class Client:
    """Fetches one address after the other, over the same connection where the host stays the same.

    Args:
        policy: what may be asked for.
        agent: who asks.
        max_bytes: of an answer.
        seconds: for one address, with all its redirects.
    """

    def __init__(self, policy: Policy, agent: str, max_bytes: int, seconds: float):
        self.policy, self.agent = policy, agent
        self.max_bytes, self.seconds = max_bytes, seconds
        self._connection: _CheckedConnection | None = None

    def get(self, url: str) -> bytes:
        """The content at an address.

        Raises:
            FetchError: it could not be had within the limits.
        """
        deadline = time.monotonic() + self.seconds
        for _ in range(REDIRECTS + 1):
            answer = self._ask(url, deadline)
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise FetchError(f"redirects more than {REDIRECTS} times", lasting=True)

    def cut(self) -> None:
        """End what another thread is waiting for."""
        if self._connection is not None:
            _cut(self._connection)

    def close(self) -> None:
        """Close the connection that is still open."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, url: str, deadline: float) -> bytes | str:
        """The content, or the address to ask next."""
        host, port, path = check(url, self.policy)
        if self._connection is not None and (self._connection.host, self._connection.port) != (host, port):
            self.close()
        reused = self._connection is not None
        connection = self._connection = self._connection or _CheckedConnection(host, port, self.policy)
        connection.deadline = deadline
        timer = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, [connection])
        timer.daemon = True
        timer.start()
        try:
            answer = self._exchange(connection, url, path, deadline)
        except FetchError:
            self.close()
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            if time.monotonic() >= deadline:
                raise FetchError(f"takes longer than {self.seconds:g} s", lasting=False) from error
            if reused:  # the host may have closed it in the meantime
                return url
            raise FetchError(
                _reason(error), lasting=isinstance(error, ssl.SSLCertVerificationError)
            ) from error
        finally:
            timer.cancel()
        return answer

    def _exchange(self, connection: _CheckedConnection, url: str, path: str, deadline: float) -> bytes | str:
        headers = {"User-Agent": self.agent, "Accept": "image/*", "Accept-Encoding": "identity"}
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        if response.status in (301, 302, 303, 307, 308):
            self.close()
            place = response.headers.get("Location")
            if not place:
                raise FetchError("redirects to nowhere", lasting=True)
            try:
                return urljoin(url, place)
            except ValueError as error:
                raise FetchError("redirects to what is not an address", lasting=True) from error
        if response.status != 200:
            raise _refusal(response.status, response.reason, response.headers)
        length = response.headers.get("Content-Length", "")
        if length.isdigit() and int(length) > self.max_bytes:
            raise self._too_large()
        data = bytearray()
        while chunk := response.read(_CHUNK):
            data += chunk
            if len(data) > self.max_bytes:
                raise self._too_large()
            if time.monotonic() >= deadline:
                raise TimeoutError
        if time.monotonic() >= deadline:
            raise TimeoutError
        if length.isdigit() and len(data) < int(length):
            raise http.client.IncompleteRead(b"")
        if response.will_close:
            self.close()
        return bytes(data)

    def _too_large(self) -> FetchError:
        return FetchError(f"is larger than {self.max_bytes:,} bytes", lasting=True)


def _refusal(status: int, reason: str, headers: http.client.HTTPMessage) -> FetchError:
    temporary = status in (408, 425, 429) or status >= 500
    wait = headers.get("Retry-After", "")
    return FetchError(f"{status} {reason}", not temporary, float(wait) if wait.isdigit() else None)


def _cut(connection: _CheckedConnection) -> None:
    sock: Any = connection.sock
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _reason(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return f"the name is not known ({error.strerror})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({error.verify_message})"
    return str(error) or type(error).__name__
