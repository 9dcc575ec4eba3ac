"""Settings of the service."""

import os
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

from pydantic import Field

from hm4sr.config import Config, override, read_toml
from hm4sr.errors import UserError
from hm4sr.serving.index import IndexConfig

TOKEN_VARIABLE = "HM4SR_TOKEN"
"""Environment variable that holds the bearer token; a file is named by `token_file`."""


class RequestLimits(Config):
    """What one request may ask for, and how much is done at a time."""

    body_bytes: int = Field(1 << 20, ge=1)
    """Largest body of a request; more is refused with 413."""
    history: int = Field(1000, ge=1)
    """Most events of one history."""
    k: int = Field(1000, ge=1)
    """Most items of one answer."""
    batch: int = Field(256, ge=1)
    """Most histories or users of one request."""
    items: int = Field(50_000, ge=1)
    """Most items of all answers of one request together."""
    explain_k: int = Field(50, ge=1)
    """Most items of an explained answer."""
    explain_batch: int = Field(4, ge=1)
    """Most histories or users of a request for explanations, each of which costs about one pass an event."""
    deadline_seconds: float = Field(2.0, gt=0)
    """Longest time to an answer; later it is refused with 503. A body must arrive within the same time."""
    in_flight: int = Field(64, ge=1)
    """Most requests at a time; more are refused with 503 and Retry-After."""
    connections: int = Field(1000, ge=1)
    """Most open connections."""
    header_seconds: float = Field(10.0, gt=0)
    """Longest time that the headers of a request may take to arrive."""
    idle_seconds: int = Field(75, ge=1)
    """Time that a connection stays open between requests; longer than proxies keep theirs."""


class BatcherConfig(Config):
    """How questions of different requests are answered together."""

    wait_seconds: float = Field(0.002, ge=0)
    """Longest time that a question waits for company."""
    rows: int = Field(64, ge=1)
    """Histories at which a batch is full."""


class ServeConfig(Config):
    """All settings of `hm4sr serve`."""

    host: str = "127.0.0.1"
    """Address to listen on; any but the machine's own (loopback) asks for a token."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one and logs it."""
    hosts: tuple[str, ...] = ()
    """Names that requests may be addressed to; empty: on loopback its names, elsewhere any."""
    token_file: Path | None = None
    """File that holds the bearer token; the environment variable HM4SR_TOKEN may hold it instead."""
    no_token: bool = False
    """Listen beyond loopback without a token, for example behind a proxy that asks for one."""
    page: bool = True
    """Serve the page at /."""
    threads: int = Field(0, ge=0)
    """Threads of torch; 0 leaves the choice to torch."""
    stop_seconds: float = Field(10.0, ge=0)
    """Time that open requests get when the service is stopped."""
    limits: RequestLimits = RequestLimits()
    batcher: BatcherConfig = BatcherConfig()
    index: IndexConfig = IndexConfig()

    @classmethod
    def load(cls, path: Path | None, assignments: Iterable[str] = ()) -> "ServeConfig":
        """Read a TOML file, if there is one, and apply `section.key=value` assignments.

        Raises:
            UserError: the file is missing or malformed, or a key or a value is not accepted.
        """
        values = {} if path is None else read_toml(path)
        return cls.parse(override(values, assignments), "hm4sr serve" if path is None else str(path))

    @property
    def loopback(self) -> bool:
        """Whether the service can be reached from this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """Names that a request may be addressed to, in lower case; empty: any.

        On loopback, foreign names are refused, so that no web page can reach the service through a name
        that it makes point here.
        """
        if self.hosts or not self.loopback:
            return frozenset(host.lower() for host in self.hosts)
        return frozenset({"localhost", "127.0.0.1", "[::1]", self.host.lower()})


def read_token(config: ServeConfig) -> bytes | None:
    """The bearer token; None if none is asked for.

    Raises:
        UserError: the file cannot be read, the token is empty or has blanks or signs beyond ASCII, or there
            is none although the service can be reached from elsewhere.
    """
    text = os.environ.get(TOKEN_VARIABLE)
    where = f"the environment variable {TOKEN_VARIABLE}"
    if config.token_file is not None:
        where = f"token_file {config.token_file}"
        try:
            text = config.token_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{where} cannot be read: check its name and its permissions.") from error
    if text is None:
        if config.loopback or config.no_token:
            return None
        raise UserError(
            f"host {config.host!r} can be reached from elsewhere and no token is set: set {TOKEN_VARIABLE} "
            "or token_file, or no_token = true behind a proxy that checks who asks."
        )
    token = text.strip()
    if not token or not token.isascii() or len(token.split()) != 1 or not token.isprintable():
        raise UserError(f"{where} holds no token: write one word of letters, digits and signs.")
    return token.encode("ascii")
