"""Product pictures from the addresses in a catalogue: a few at a time, within limits, resumable."""

import io
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from hm4sr.config import Config
from hm4sr.data.dataset import IMAGES, Dataset
from hm4sr.data.images import REPORT, downloaded, failures, stem
from hm4sr.data.remote.fetch import AGENT
from hm4sr.data.remote.guard import Client, FetchError, Policy, check
from hm4sr.errors import UserError
from hm4sr.files import atomic_file, write_json
from hm4sr.progress import Progress

FORMATS = {
    "JPEG": "jpg",
    "PNG": "png",
    "GIF": "gif",
    "WEBP": "webp",
    "BMP": "bmp",
    "TIFF": "tif",
    "AVIF": "avif",
}
SECURE_HOSTS = {
    "ecx.images-amazon.com": "images-na.ssl-images-amazon.com",
    "g-ecx.images-amazon.com": "images-na.ssl-images-amazon.com",
}
"""Hosts of old catalogues that serve no https, and those that serve the same pictures with it."""
TRIES = 3
"""Attempts at one address in one run."""
LONGEST_WAIT = 60.0
"""Seconds of rest at most when a server asks for it."""
HOPELESS = 20
"""After so many failures of the network and not one answer the run ends."""
_SAVE_EVERY = 500


class ImageConfig(Config):
    """How politely and within which limits pictures are fetched."""

    workers: int = Field(default=4, ge=1, le=16)
    """Pictures fetched at the same time."""
    max_bytes: int = Field(default=20_000_000, ge=1)
    """Largest picture, in bytes."""
    max_pixels: int = Field(default=64_000_000, ge=1)
    """Largest picture, in pixels."""
    timeout: float = Field(default=30.0, gt=0)
    """Seconds for one attempt at a picture, with its redirects."""
    retry: Literal["temporary", "all", "none"] = "temporary"
    """Failures of earlier runs to try again: those that may pass, all, or none."""
    limit: int | None = Field(default=None, ge=1)
    """Fetch at most so many pictures in this run."""
    contact: str | None = Field(default=None, pattern=r"^[\x21-\x7e]{1,200}$")
    """Your e-mail or web address, told to the servers together with the name of this program."""


@dataclass
class ImageReport:
    """What there is now.

    Attributes:
        num_items: items of the data set.
        own: items with a file of the user's own.
        addresses: different addresses of the other items.
        there: addresses whose picture was there before this run.
        fetched: addresses that gave a picture in this run.
        skipped: addresses left alone because an earlier run failed on them, or because of `limit`.
        bytes: of the pictures of this run.
        failed: address to the reason why it gave nothing, of this and earlier runs.
    """

    num_items: int
    own: int
    addresses: int
    there: int
    fetched: int = 0
    skipped: int = 0
    bytes: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def download_images(
    dataset: Dataset,
    config: ImageConfig | None = None,
    policy: Policy | None = None,
    wait: Callable[[float], object] | None = None,
) -> ImageReport:
    """Fetch the pictures of the items that have an address and no file; addresses that fail become gaps.

    Args:
        dataset: prepared from a catalogue with addresses.
        config: limits.
        policy: which addresses may be asked; https at public hosts if not given.
        wait: called with seconds to rest, instead of resting.

    Raises:
        UserError: the data set has no addresses, nothing can be written, or nothing can be reached.
    """
    _need_pillow()
    config, policy = config or ImageConfig(), policy or Policy()
    items = dataset.items
    if "image_url" not in items.columns or items["image_url"].null_count() == len(items):
        raise UserError(
            f"{dataset.path} has no addresses of pictures: prepare it from a catalogue that has them "
            "(--image-url-column)."
        )
    wanted = items.filter(items["image"].is_null() & items["image_url"].is_not_null())["image_url"]
    urls = wanted.unique(maintain_order=True).to_list()
    folder = dataset.path / IMAGES
    here, failed = downloaded(folder), failures(folder)
    new = [url for url in urls if stem(url) not in here]
    report = ImageReport(
        num_items=len(items),
        own=len(items) - items["image"].null_count(),
        addresses=len(urls),
        there=len(urls) - len(new),
    )
    chosen = [url for url in new if _try_again(failed.get(url), config.retry)][: config.limit]
    report.skipped = len(new) - len(chosen)
    for url in set(failed) & {url for url in urls if stem(url) in here}:
        del failed[url]
    try:
        folder.mkdir(exist_ok=True)
        _Run(folder, config, policy, wait, report, failed).fetch(chosen)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror or error}): make room.") from error
    report.failed = {url: str(failed[url].get("reason")) for url in urls if url in failed}
    return report


def _try_again(failure: dict[str, object] | None, retry: str) -> bool:
    if failure is None or retry == "all":
        return True
    return retry == "temporary" and not failure.get("lasting")


class _Run:
    """One run over some addresses."""

    def __init__(
        self,
        folder: Path,
        config: ImageConfig,
        policy: Policy,
        wait: Callable[[float], object] | None,
        report: ImageReport,
        failed: dict[str, dict[str, object]],
    ):
        self.folder, self.config, self.policy = folder, config, policy
        self.report, self.failed = report, failed
        self._stop = threading.Event()
        self.wait = wait or self._stop.wait
        self.agent = f"{AGENT[:-1]}; {config.contact})" if config.contact else AGENT
        self._clients = threading.local()
        self._open: list[Client] = []
        self._rest_until = 0.0
        self._answers = 0

    def fetch(self, urls: list[str]) -> None:
        """Fetch addresses; the report on disk is right also after an interruption."""
        try:
            with Progress("pictures", len(urls), "pictures") as progress:
                for done, (url, outcome) in enumerate(self._outcomes(urls), start=1):
                    self._note(url, outcome)
                    if done % _SAVE_EVERY == 0:
                        self._save()
                    if done == HOPELESS and not self._answers:
                        raise UserError(
                            f"none of the first {HOPELESS} pictures could be fetched (the last: {outcome}): "
                            "check the network and run again."
                        )
                    progress.advance()
        finally:
            for client in self._open:
                client.close()
            self._save()

    def _outcomes(self, urls: list[str]) -> Iterator[tuple[str, int | FetchError]]:
        """Bytes of each picture, or the failure, a few addresses ahead of the consumer."""
        waiting: deque[tuple[str, Future[int]]] = deque()
        with ThreadPoolExecutor(self.config.workers, "pictures") as pool:
            try:
                for url in urls:
                    waiting.append((url, pool.submit(self._picture, url)))
                    if len(waiting) >= 4 * self.config.workers:
                        yield _outcome(*waiting.popleft())
                while waiting:
                    yield _outcome(*waiting.popleft())
            finally:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                for client in self._open:
                    client.cut()

    def _picture(self, url: str) -> int:
        """Fetch one picture and save it; its bytes."""
        for attempt in range(1, TRIES + 1):
            self._rest()
            if self._stop.is_set():
                raise FetchError("interrupted", lasting=False)
            try:
                data = self._client().get(secure(url, self.policy))
            except FetchError as error:
                if error.lasting or attempt == TRIES:
                    raise
                pause = float(2 ** (attempt - 1)) if error.wait is None else error.wait
                self._rest_until = max(self._rest_until, time.monotonic() + min(pause, LONGEST_WAIT))
                continue
            ending = picture_ending(data, self.config.max_pixels)
            with atomic_file(self.folder / f"{stem(url)}.{ending}") as temporary:
                temporary.write_bytes(data)
            return len(data)
        raise AssertionError

    def _rest(self) -> None:
        pause = self._rest_until - time.monotonic()
        if pause > 0:
            self.wait(pause)

    def _client(self) -> Client:
        client: Client | None = getattr(self._clients, "value", None)
        if client is None:
            client = Client(self.policy, self.agent, self.config.max_bytes, self.config.timeout)
            self._clients.value = client
            self._open.append(client)
        return client

    def _note(self, url: str, outcome: int | FetchError) -> None:
        if isinstance(outcome, FetchError):
            tries = self.failed.get(url, {}).get("tries", 0)
            self.failed[url] = {
                "reason": str(outcome),
                "lasting": outcome.lasting,
                "tries": (tries if isinstance(tries, int) else 0) + 1,
            }
            self._answers += outcome.lasting
            return
        self._answers += 1
        self.failed.pop(url, None)
        self.report.fetched += 1
        self.report.bytes += outcome

    def _save(self) -> None:
        write_json(
            self.folder / REPORT, {"format": "hm4sr-images", "failed": dict(sorted(self.failed.items()))}
        )


def secure(url: str, policy: Policy) -> str:
    """The address to ask: http becomes https, at the host that serves it.

    Raises:
        FetchError: it is no address.
    """
    if policy.scheme != "https" or not url.lower().startswith("http://"):
        return url
    url = "https://" + url[len("http://") :].replace(":80/", "/", 1)
    host, _, _ = check(url, policy)
    return url.replace(host, SECURE_HOSTS[host], 1) if host in SECURE_HOSTS else url


def picture_ending(data: bytes, max_pixels: int) -> str:
    """Ending of the name of a picture's format, from the head of the file.

    Raises:
        FetchError: it is no picture, or too large to decode.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            kind, (width, height) = str(image.format), image.size
    except Image.DecompressionBombError as error:
        raise FetchError("has too many pixels", lasting=True) from error
    except MemoryError as error:
        raise FetchError("could not be looked at for want of memory", lasting=False) from error
    except Exception as error:  # damaged files make decoders raise nearly anything
        raise FetchError("is not a picture", lasting=True) from error
    if width * height > max_pixels:
        raise FetchError(f"has {width:,} x {height:,} pixels", lasting=True)
    if width * height == 1:
        raise FetchError("is a placeholder of one pixel", lasting=True)
    return FORMATS.get(kind, "jpg")


def _outcome(url: str, future: "Future[Any]") -> tuple[str, int | FetchError]:
    try:
        return url, future.result()
    except FetchError as error:
        return url, error


def _need_pillow() -> None:
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise UserError("pictures need the extra `features`: pip install 'hm4sr[features]'.") from error
