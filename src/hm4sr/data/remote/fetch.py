"""Published files, fetched whole or continued where they stopped, verified, unpacked."""

import http.client
import json
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import urlsplit

import hm4sr
from hm4sr.data.remote.official import RemoteFile, RemoteSet
from hm4sr.errors import UserError
from hm4sr.files import atomic_directory, finish_file, read_json, sha256
from hm4sr.progress import Progress

AGENT = f"hm4sr/{hm4sr.__version__} (research software that prepares data sets)"
TIMEOUT = 30.0
"""Seconds without a byte before a connection is given up."""
TRIES = 4
"""Attempts in a row that bring nothing."""
_CHUNK = 1 << 18
_MAGIC = {".zip": b"PK", ".gz": b"\x1f\x8b"}


class Opener(Protocol):
    """What opens a request, as `urllib.request.OpenerDirector` does."""

    def open(self, fullurl: urllib.request.Request, /, *, timeout: float) -> Any:
        """The answer, to read from."""


@dataclass(frozen=True)
class Fetched:
    """A file that is there now.

    Attributes:
        path: where.
        size: bytes.
        sha256: of its content.
        verified: whether that is the recorded sha256.
        new: whether this run brought it.
        unpacked: folder of the archive's content.
    """

    path: Path
    size: int
    sha256: str
    verified: bool
    new: bool
    unpacked: Path | None = None


def download(
    wanted: RemoteSet,
    out: Path,
    mirror: str | None = None,
    opener: Opener | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> list[Fetched]:
    """Fetch all files of a data set; what is there already stays, what was begun is continued.

    Args:
        wanted: the data set.
        out: folder to write to, made if missing.
        mirror: folder or address that holds the same files, instead of the makers' servers.
        opener: opens requests; by default one that follows redirects to https only.
        wait: called with seconds to pause before another attempt.

    Raises:
        UserError: a file cannot be had, is not what was recorded, or cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        return [_provide(file, wanted, out, mirror, opener or secure_opener(), wait) for file in wanted.files]
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{out} cannot be written ({reason}): choose another --out or make room.") from error


def _provide(
    file: RemoteFile,
    wanted: RemoteSet,
    out: Path,
    mirror: str | None,
    opener: Opener,
    wait: Callable[[float], None],
) -> Fetched:
    path = out / file.name
    new = not path.exists()
    if new:
        part = path.with_name(path.name + ".part")
        if mirror is not None and not mirror.startswith(("http://", "https://")):
            _copy(file, wanted, Path(mirror), part)
        else:
            url = file.url if mirror is None else f"{mirror.rstrip('/')}/{file.name}"
            _Transfer(url, part, wanted, opener, wait).run()
        _check(part, file, wanted)
        finish_file(part, path)
        _memory(part).unlink(missing_ok=True)
    digest = sha256(path)
    if file.sha256 is not None and digest != file.sha256:
        raise UserError(f"{path} is not the published file (its sha256 differs): remove it and run again.")
    unpacked = _unpack(path) if path.suffix == ".zip" else None
    return Fetched(path, path.stat().st_size, digest, file.sha256 is not None, new, unpacked)


class _Transfer:
    """One file over HTTP, continued with a range request where the server can."""

    def __init__(
        self, url: str, part: Path, wanted: RemoteSet, opener: Opener, wait: Callable[[float], None]
    ):
        self.url, self.part, self.wanted = url, part, wanted
        self.opener, self.wait = opener, wait

    def run(self) -> None:
        failures = 0
        while True:
            before = self._size()
            try:
                if self._attempt():
                    return
                reason = "the connection ended early"
            except urllib.error.HTTPError as error:
                if error.code not in (408, 429, 500, 502, 503, 504):
                    raise self._refused(error.code, error.reason) from error
                reason = f"{error.code} {error.reason}"
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                cause = getattr(error, "reason", error)
                reason = str(getattr(cause, "strerror", None) or cause) or type(error).__name__
            failures = 1 if self._size() > before else failures + 1
            if failures >= TRIES:
                raise self._unreachable(reason)
            self.wait(2.0 ** (failures - 1))

    def _attempt(self) -> bool:
        """Fetch what is missing; whether the file is whole now."""
        start, validator = self._size(), self._validator()
        if start and validator is None:
            self.part.unlink()
            start = 0
        headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
        if start and validator:
            headers |= {"Range": f"bytes={start}-", "If-Range": validator}
        try:
            response = self.opener.open(urllib.request.Request(self.url, headers=headers), timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not start:
                raise
            self.part.unlink()  # longer than the file is now
            return False
        with response:
            continued = response.status == 206 and _range_start(response) == start
            if response.status == 206 and not continued:
                self.part.unlink()
                return False
            if not continued:
                start = 0
                self._remember(response)
            length = response.headers.get("Content-Length")
            total = start + int(length) if length and length.isdigit() else None
            self._save(response, start, total)
        return total is None or self._size() == total

    def _save(self, response: Any, start: int, total: int | None) -> None:
        with (
            self.part.open("ab" if start else "wb") as stream,
            Progress(self.part.stem, (total or start) >> 20, "MB") as progress,
        ):
            progress.advance(start >> 20)
            while chunk := response.read(_CHUNK):
                if stream.tell() == 0:
                    self._expect(chunk)
                stream.write(chunk)
                progress.advance((stream.tell() >> 20) - progress.done)

    def _expect(self, chunk: bytes) -> None:
        magic = _MAGIC.get(Path(self.part.stem).suffix)
        if magic is not None and not chunk.startswith(magic):
            raise UserError(
                f"{self._host} answers with something else than {self.part.stem} (a web page?): fetch it in "
                f"a browser from {self.wanted.home} and give its folder with --mirror."
            )

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _validator(self) -> str | None:
        """What the server called this version of the file; without it, nothing may be appended."""
        try:
            memory = read_json(_memory(self.part))
        except UserError:
            return None
        known = isinstance(memory, dict) and memory.get("url") == self.url
        return memory.get("validator") if known else None

    def _remember(self, response: Any) -> None:
        etag = response.headers.get("ETag")
        strong = etag if etag and not etag.startswith("W/") else None
        memory = {"url": self.url, "validator": strong or response.headers.get("Last-Modified")}
        _memory(self.part).write_text(json.dumps(memory))

    @property
    def _host(self) -> str:
        return urlsplit(self.url).hostname or self.url

    def _refused(self, code: int, reason: str) -> UserError:
        if code in (404, 410):
            what = f"{self._host} no longer has {self.part.stem} ({code} {reason})"
        else:
            what = f"{self._host} refuses to hand out {self.part.stem} ({code} {reason})"
        advice = f"look for it at {self.wanted.home} and give the folder you saved it in with --mirror"
        return UserError(f"{what}: {advice}.")

    def _unreachable(self, reason: str) -> UserError:
        kept = f", {self._size() >> 20:,} MB of it are kept" if self._size() else ""
        advice = "check the network and run again, or give a copy with --mirror DIR"
        return UserError(f"{self.part.stem} cannot be fetched from {self._host} ({reason}{kept}): {advice}.")


class _SecureRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to something weaker."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.full_url.startswith("https://") and not newurl.startswith("https://"):
            raise urllib.error.HTTPError(newurl, code, "redirected to an insecure address", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def secure_opener() -> Opener:
    """Opens requests over http and https, with the proxies of the environment."""
    return urllib.request.build_opener(_SecureRedirects())


def _memory(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _range_start(response: Any) -> int | None:
    """First byte of a partial answer (`bytes 5-9/10`)."""
    unit, _, rest = str(response.headers.get("Content-Range", "")).partition(" ")
    first = rest.partition("-")[0]
    return int(first) if unit == "bytes" and first.isdigit() else None


def _copy(file: RemoteFile, wanted: RemoteSet, mirror: Path, part: Path) -> None:
    places = [mirror / file.name, mirror / wanted.name / file.name]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(f"{mirror} has no {file.name}: put it there, it comes from {file.url}.")
    shutil.copyfile(found, part)


def _check(part: Path, file: RemoteFile, wanted: RemoteSet) -> None:
    """Compare size and sha256 with what is recorded; a wrong file is removed."""
    size = part.stat().st_size
    wrong = None
    if file.size is not None and size != file.size:
        wrong = f"it has {size:,} bytes instead of {file.size:,}"
    elif file.sha256 is not None and sha256(part) != file.sha256:
        wrong = "its sha256 differs from the recorded one"
    if wrong:
        part.unlink()
        _memory(part).unlink(missing_ok=True)
        raise UserError(
            f"{file.name} was damaged on the way or has changed ({wrong}): run again, or see {wanted.home}."
        )


def _unpack(archive: Path) -> Path:
    """Unpack a zip file beside it, without its single top folder if it has one."""
    folder = archive.with_suffix("")
    if folder.is_dir() and any(folder.iterdir()):
        return folder
    try:
        with zipfile.ZipFile(archive) as content:
            members = [member for member in content.infolist() if not member.is_dir()]
            names = [PurePosixPath(member.filename.replace("\\", "/")) for member in members]
            if any(name.is_absolute() or ".." in name.parts or ":" in name.parts[0] for name in names):
                raise UserError(f"{archive} would unpack outside its folder: do not use it.")
            if sum(member.file_size for member in members) > shutil.disk_usage(archive.parent).free:
                raise UserError(f"{archive} needs more room unpacked than the disk has: make room.")
            top = {name.parts[0] for name in names} if all(len(name.parts) > 1 for name in names) else set()
            strip = 1 if len(top) == 1 else 0
            with atomic_directory(folder) as temporary:
                for member, name in zip(members, names, strict=True):
                    target = temporary.joinpath(*name.parts[strip:])
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with content.open(member) as source, target.open("wb") as stream:
                        shutil.copyfileobj(source, stream)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"{archive} is not a readable zip file ({error}): remove it and run again."
        ) from error
    return folder
