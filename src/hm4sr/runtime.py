"""Seeds, threads, device and number format of one process."""

import contextlib
import ctypes
import os
import platform
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import hm4sr
from hm4sr.errors import UserError

Precision = Literal["auto", "float32", "bfloat16"]


def torch_generator(seed: int, stream: str, device: str = "cpu") -> torch.Generator:
    """A torch generator of its own for one use, so that uses do not disturb each other."""
    generator = torch.Generator(device)
    generator.manual_seed(_mix(seed, stream))
    return generator


def numpy_generator(seed: int, stream: str, *counters: int) -> np.random.Generator:
    """A numpy generator of its own for one use and, for example, one epoch."""
    return np.random.default_rng([_mix(seed, stream), *counters])


def _mix(seed: int, stream: str) -> int:
    return (seed << 32) ^ zlib.crc32(stream.encode())


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU if there is one.

    Raises:
        UserError: the named device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'device {name!r} is not available here: use device = "auto".') from error
    return device


def choose_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Number format of the large matrix products; `auto` takes bfloat16 where the hardware multiplies it."""
    if precision == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.backends.cpu.get_cpu_capability()
    if not capabilities.startswith("AVX512"):
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Versions and hardware, for the run folder."""
    return {
        "hm4sr": hm4sr.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    """Name of the processor's model, as far as the system tells it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor()


def keep_freed_memory() -> None:
    """Ask the C library to reuse large freed blocks instead of returning them to the system (Linux, glibc).

    A training step frees and allocates the same tens of megabytes again and again; fetching them from the
    system each time costs a page fault for every 4 KB. On the other hand the library of matrix products keeps
    up to 1,024 compiled kernels and their buffers; a step uses some dozens, and keeping 128 saves 100 MB.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")  # read at the first product
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    m_trim_threshold, m_mmap_threshold = -1, -3
    mallopt(m_mmap_threshold, 1 << 25)  # the largest glibc takes
    mallopt(m_trim_threshold, 1 << 30)
