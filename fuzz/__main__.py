"""`python -m fuzz [NAME ...] [--seconds 60]`: fuzz targets one after the other, each in a process of its own.

Needs atheris (`pip install 'hm4sr[fuzz]'`), which has wheels for Linux. The first finding ends a target: its
traceback is shown and the input kept in `fuzz/findings/`. `--input FILE` runs a target on such a file again.
Inputs that reached new code are kept in `fuzz/corpus/`, and the next call goes on from them.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from fuzz.target import MEMORY, instrumented
from fuzz.targets import TARGETS

os.environ |= {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
HERE = Path(__file__).parent
_LONGEST = 4096
"""Bytes of an input at most."""
_PATIENCE = 30
"""Seconds for one input, on a busy machine; more is a finding."""
_MEGABYTES = 4096
"""Memory of the process at most; more is a finding."""


def main() -> int:
    """Read the command line; 0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *TARGETS], metavar="NAME", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--input", type=Path, help="run one target on this file alone, without atheris")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.names or list(TARGETS)
    if given.input is not None:
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            TARGETS[names[0]](Path(folder)).run(given.input.read_bytes())
        return 0
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("fuzz: atheris is not installed: pip install 'hm4sr[fuzz]' (Linux).", file=sys.stderr)
        return 2
    if given.here is not None:
        _fuzz(names[0], given.seconds, given.here)
    return max(_in_process(name, given.seconds) for name in names)


def _fuzz(name: str, seconds: int, folder: Path) -> None:
    """Fuzz one target in this process, which atheris ends; its world is made in an empty folder."""
    import atheris

    with instrumented():
        target = TARGETS[name](folder)
    corpus, found = HERE / "corpus" / name, HERE / "findings"
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = folder / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    options = {
        "max_total_time": seconds,
        "max_len": max(_LONGEST, *(len(seed) for seed in target.seeds)),
        "timeout": _PATIENCE,
        "rss_limit_mb": _MEGABYTES,
        "print_final_stats": 1,
        "artifact_prefix": f"{found / name}-",
        "dict": words,
    }
    arguments = [f"-{key}={value}" for key, value in options.items()]
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], target.run)
    atheris.Fuzz()


def _in_process(name: str, seconds: int) -> int:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        command = [sys.executable, "-m", "fuzz", name, "--seconds", str(seconds), "--here", folder]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    told = done.stdout + done.stderr
    counts = re.findall(r"stat::number_of_executed_units:\s*(\d+)", told)
    counts = counts or re.findall(r"^#(\d+)", told, re.MULTILINE)
    outcome = "a finding" if done.returncode else "nothing found"
    print(f"{name}: {int(counts[-1]) if counts else 0:,} executions, {outcome}")
    if done.returncode:
        print("\n".join(told.splitlines()[-60:]))
    sys.stdout.flush()
    return int(done.returncode != 0)


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    sys.exit(main())
