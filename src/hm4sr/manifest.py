"""Manifests: JSON files that vouch for the files beside them, and for themselves.

A manifest lists the sha256 of other files; nothing lists its own. So it is sealed: its first key says that
it is, its last one is the sha256 of all between, and it is written in one form alone, so that no byte of it
can change unnoticed. Sealing is against damage, not against an adversary, who could seal anew.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hm4sr.errors import UserError
from hm4sr.files import parse_json, read_bytes, verify_files, write_text

NAME = "manifest.json"
_MARK, _SEAL = "sealed", "seal"


def write_manifest(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain values as a sealed JSON file, atomically."""
    body = {_MARK: True, **content}
    write_text(path, _text({**body, _SEAL: _digest(body)}))


def read_manifest(path: Path) -> dict[str, Any]:
    """The values of a sealed file, without the seal.

    One without any seal, as earlier versions wrote them, is taken as it is.

    Raises:
        UserError: it is missing, is not a JSON object, or has changed since it was written.
    """
    content = read_bytes(path)
    value = parse_json(content, path)
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a manifest: it is damaged, make it anew.")
    if _MARK not in value and _SEAL not in value:
        return value
    body = {key: inner for key, inner in value.items() if key != _SEAL}
    # The comparison with its own text finds what JSON does not care about, such as white space.
    if (
        value.get(_MARK) is not True
        or value.get(_SEAL) != _digest(body)
        or content != _text(value).encode("utf-8", "surrogatepass")
    ):
        raise UserError(f"{path} has changed since it was written: it is damaged, make it anew.")
    del body[_MARK]
    return body


def check_format(
    path: Path, manifest: Mapping[str, Any], wanted: tuple[str, int], what: str, advice: str
) -> None:
    """Whether a manifest is of the wanted format and version.

    Args:
        path: the folder, for messages.
        manifest: its content.
        wanted: format and version.
        what: what the folder should be, e.g. "a run folder".
        advice: how to get one, without the full stop.

    Raises:
        UserError: it is not.
    """
    if manifest.get("format") != wanted[0]:
        raise UserError(f"{path} is not {what}: {advice}.")
    if manifest.get("version") != wanted[1]:
        raise UserError(f"{path} was written by another version of hm4sr: {advice}.")


def listed_files(path: Path, manifest: Mapping[str, Any], required: Iterable[str]) -> dict[str, str]:
    """The hashes that a manifest lists.

    Raises:
        UserError: it lists none, leaves out a required file, which would then load unchecked, or names a file
            outside of its folder.
    """
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(isinstance(expected, str) for expected in files.values()):
        raise UserError(f"{path / NAME} lists no files: it is damaged, make it anew.")
    missing = sorted(set(required) - files.keys())
    if missing:
        raise UserError(f"{path / NAME} does not list {missing[0]}: it is damaged, make it anew.")
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
            raise UserError(f"{path / NAME} names {name!r}, which is outside of the folder: do not use it.")
    return dict(files)


def verify_listed(path: Path, manifest: Mapping[str, Any], required: Iterable[str]) -> dict[str, str]:
    """Compare all files that a manifest lists with their hashes, and return these.

    Raises:
        UserError: see `listed_files` and `hm4sr.files.verify_files`.
    """
    files = listed_files(path, manifest, required)
    verify_files(path, files)
    return files


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(body).encode("utf-8", "surrogatepass")).hexdigest()


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
