"""Broken and malicious files, made by code so that one can see what is wrong with them."""

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any


class Bomb:
    """Unpickling it would make the file of that name."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def pickled(trace: Path) -> bytes:
    """A pickle that acts when it is loaded."""
    return pickle.dumps(Bomb(trace))


def torch_file(trace: Path) -> bytes:
    """The zip of `torch.save` around such a pickle: .pt, .bin, .ckpt."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(trace))
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


def numpy_archive(trace: Path) -> bytes:
    """An .npz whose array is an object, which numpy keeps as a pickle."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + pickled(trace)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("weights.npy", array)
    return stream.getvalue()


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with any header, and any claim of its length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape: Any, start: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    """What a header says about one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


FOUR = b"\0" * 16
WHOLE = {"a": tensor([4], 0, 16)}
SAFETENSORS: dict[str, bytes] = {
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "no header": struct.pack("<Q", 0),
    "a header longer than the file": safetensors(WHOLE, FOUR, length=1_000_000),
    "a header of 2^63 bytes": safetensors(WHOLE, FOUR, length=2**63),
    "a header of 2^64 - 1 bytes": safetensors(WHOLE, FOUR, length=2**64 - 1),
    "a header of a gigabyte": safetensors(WHOLE, FOUR, length=2**30),
    "no JSON": safetensors(b"{'a': 1}", FOUR),
    "no UTF-8": safetensors(b'{"\xff": 1}', FOUR),
    "a list": safetensors([1, 2], FOUR),
    "deep nesting": safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", FOUR),
    "an unknown type": safetensors({"a": tensor([4], 0, 16, "F33")}, FOUR),
    "a type that is a number": safetensors({"a": tensor([4], 0, 16, 32)}, FOUR),
    "a smaller type than the bytes": safetensors({"a": tensor([4], 0, 16, "F16")}, FOUR),
    "a larger type than the bytes": safetensors({"a": tensor([4], 0, 16, "F64")}, FOUR),
    "a negative length": safetensors({"a": tensor([-4], 0, 16)}, FOUR),
    "a negative place": safetensors({"a": tensor([4], -16, 0)}, FOUR),
    "an end before the start": safetensors({"a": tensor([4], 16, 0)}, FOUR),
    "an end behind the file": safetensors({"a": tensor([400], 0, 1600)}, FOUR),
    "a product beyond 64 bits": safetensors({"a": tensor([2**33, 2**33], 0, 16)}, FOUR),
    "a length beyond 64 bits": safetensors({"a": tensor([2**70], 0, 16)}, FOUR),
    "a length with a fraction": safetensors({"a": tensor([4.5], 0, 16)}, FOUR),
    "overlapping tensors": safetensors({"a": tensor([4], 0, 16), "b": tensor([2], 8, 16)}, FOUR),
    "the same bytes twice": safetensors({"a": tensor([4], 0, 16), "b": tensor([4], 0, 16)}, FOUR),
    "a hole": safetensors({"a": tensor([2], 0, 8), "b": tensor([1], 12, 16)}, FOUR),
    "bytes left over": safetensors({"a": tensor([2], 0, 8)}, FOUR),
    "no place": safetensors({"a": {"dtype": "F32", "shape": [4]}}, FOUR),
    "three places": safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8, 16]}}, FOUR),
    "a number as metadata": safetensors({"__metadata__": {"a": 1}, **WHOLE}, FOUR),
    "cut off within the header": safetensors(WHOLE, FOUR)[:20],
    "cut off within the data": safetensors(WHOLE, FOUR)[:-1],
}
"""What no reader of safetensors may take for weights."""

STRANGE_WEIGHTS: dict[str, bytes] = {
    "no tensor": safetensors({}),
    "another tensor": safetensors(WHOLE, FOUR),
}
"""Valid files that are no model of ours."""

TABLES: dict[str, bytes] = {
    "nothing": b"",
    "a line break": b"\n",
    "a header alone": b"user_id,item_id,timestamp\n",
    "a null byte": b"user_id,item_id,timestamp\nu1,i\x001,1400000000\n",
    "no UTF-8": b"user_id,item_id,timestamp\nu1,i\xff1,1400000000\n",
    "UTF-16": "user_id,item_id,timestamp\nu1,i1,1400000000\n".encode("utf-16"),
    "a quote that never ends": b'user_id,item_id,timestamp\nu1,"i1,1400000000\nu2,i2,1400000001\n',
    "a row too short": b"user_id,item_id,timestamp\nu1,i1\n",
    "a row too long": b"user_id,item_id,timestamp\nu1,i1,1400000000,5\n",
    "a column twice": b"user_id,user_id,item_id,timestamp\nu1,u1,i1,1400000000\n",
    "a column missing": b"user_id,item_id\nu1,i1\n",
    "an empty id": b"user_id,item_id,timestamp\nu1,,1400000000\n",
    "a time that is a word": b"user_id,item_id,timestamp\nu1,i1,yesterday\n",
    "a time that is infinite": b"user_id,item_id,timestamp\nu1,i1,inf\n",
    "a time beyond 64 bits": b"user_id,item_id,timestamp\nu1,i1,99999999999999999999999\n",
    "units mixed": b"user_id,item_id,timestamp\nu1,i1,1400000000\nu1,i2,1400000000000\n",
    "a parquet file": b"PAR1" + b"\0" * 64 + b"PAR1",
    "a gzip file": b"\x1f\x8b\x08" + b"\0" * 32,
    "a picture": b"\x89PNG\r\n\x1a\n" + b"\0" * 64,
}
"""Tables of interactions that cannot be read."""

PARQUET: dict[str, bytes] = {
    "nothing": b"",
    "the magic alone": b"PAR1PAR1",
    "a footer of 4 GB": b"PAR1" + b"\0" * 16 + struct.pack("<I", 2**32 - 1) + b"PAR1",
    "a footer of zeros": b"PAR1" + b"\0" * 64 + struct.pack("<I", 32) + b"PAR1",
    "a footer of ones": b"PAR1" + b"\xff" * 64 + struct.pack("<I", 32) + b"PAR1",
    "text": b"user_id,item_id,timestamp\nu1,i1,1400000000\n",
}
"""Parquet files that are none."""

JSON: dict[str, bytes] = {
    "nothing": b"",
    "null": b"null",
    "a number": b"7",
    "a list": b"[]",
    "a text": b'"manifest"',
    "an empty object": b"{}",
    "deep nesting": b"[" * 100_000,
    "no UTF-8": b'{"format": "\xff"}',
    "a number of 5,000 digits": b'{"version": ' + b"9" * 5_000 + b"}",
    "two values": b"{} {}",
    "no files": b'{"format": "hm4sr-run", "version": 1}',
    "files as a list": b'{"format": "hm4sr-run", "version": 1, "files": ["config.json"]}',
    "files as numbers": b'{"format": "hm4sr-run", "version": 1, "files": {"config.json": 7}}',
    "a file elsewhere": b'{"format": "hm4sr-run", "version": 1, "files": {"../../etc/passwd": "0"}}',
    "a part of the files": b'{"format": "hm4sr-run", "version": 1, "files": {}}',
}
"""Manifests and the like that nobody wrote."""

TOML: dict[str, bytes] = {
    "nothing": b"",
    "no TOML": b"[model\nname = hm4sr",
    "no UTF-8": b'[model]\nname = "\xff"',
    "a null byte": b'[model]\nname = "\0"',
    "a key twice": b'[model]\nname = "hm4sr"\nname = "sasrec"\n',
    "sections that are values": b"data = 7\nmodel = 8\n",
    "a list of models": b'[data]\npath = "x"\n[[model]]\nname = "hm4sr"\n',
    "a name that is a number": b'[data]\npath = "x"\n[model]\nname = 7\n',
    "deep nesting": b"a = " + b"[" * 5_000 + b"]" * 5_000,
    "deep tables": b"[" + b".".join([b"a"] * 5_000) + b"]\nb = 1\n",
    "a huge number": b'[data]\npath = "x"\n[model]\nname = "hm4sr"\ndim = ' + b"9" * 5_000,
    "no number": b'[data]\npath = "x"\n[model]\nname = "hm4sr"\ndropout = nan\n',
    "infinity": b'[data]\npath = "x"\n[model]\nname = "hm4sr"\n[train]\nlearning_rate = inf\n',
    "a null byte in a path": b'[data]\npath = "x\\u0000y"\n[model]\nname = "sasrec"\n',
}
"""Configurations that say nothing one could train."""
