"""Bits of a weight in, `step.cpp` compiled for them and for this processor, out. Kept in IRA's cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ira.errors import InputError
from ira.runtime import cache_folder

FOLDER = Path(__file__).parent
SOURCE, HEADERS = FOLDER / "step.cpp", (FOLDER / "kernels.h", FOLDER / "numbers.h")
COMPILERS = ("g++", "clang++", "c++")
WITH = ["-O3", "-std=c++17", "-fPIC", "-shared", "-w", "-Wno-psabi"]
PERHAPS = [["-march=native", "-fopenmp"], ["-mcpu=native", "-fopenmp"], ["-march=native"], ["-mcpu=native"], []]


def has_compiler() -> bool:
    return _found() is not None


def compiler() -> str:
    """The path of one.

    Raises:
        InputError: there is none.
    """
    found = _found()
    if found is None:
        raise InputError(f"nothing to compile with; install one of {', '.join(COMPILERS)}, or go without compiling")
    return found


def _found() -> str | None:
    """The compiler that CXX names, or the first of the usual ones."""
    return next(filter(None, map(shutil.which, filter(None, [os.environ.get("CXX"), *COMPILERS]))), None)


@cache
def built(bits: int) -> Callable[..., int]:
    """`ira_step` of step.cpp for weights of so many bits.

    Raises:
        InputError: there is no compiler, it cannot compile this, or the cache cannot be used.
    """
    with_what = compiler()
    sources = [path.read_text() for path in (SOURCE, *HEADERS)]
    known = "\n".join([*sources, str(bits), _processor(), _version(with_what), *WITH, *sum(PERHAPS, [])])
    path = cache_folder() / "native" / f"step{bits}-{hashlib.sha256(known.encode()).hexdigest()[:16]}.so"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_owner(path.parent)
        if not path.is_file():
            _compile(with_what, bits, path)
    except OSError as error:
        raise InputError(
            f"cache {path.parent}: cannot be written ({error.strerror}); set IRA_CACHE to a folder"
        ) from None
    try:
        step = ctypes.CDLL(str(path)).ira_step
    except OSError as error:
        raise InputError(f"{path}: cannot be loaded ({error}); delete it or set IRA_CACHE to another folder") from None
    step.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, *[ctypes.c_void_p] * 5]
    step.restype = ctypes.c_int32
    return step


def _check_owner(folder: Path) -> None:
    """What lies there is run, so nobody else may write there.

    Raises:
        InputError: somebody may.
    """
    found = folder.stat()
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022):
        raise InputError(f"{folder}: others can write there, and it is run; set IRA_CACHE to a folder of yours")


def _compile(with_what: str, bits: int, path: Path) -> None:
    """Aside, then renamed: several processes may do so at once."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        for perhaps in PERHAPS:
            command = [with_what, *WITH, *perhaps, f"-DBITS={bits}", str(SOURCE), "-o", str(made)]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode == 0:
                os.replace(made, path)
                return
    said = " ".join(run.stderr.split())[:300]
    raise InputError(f"{with_what} cannot compile {SOURCE.name}: {said}; go without --compile")


def _processor() -> str:
    """What this processor can do: code that is made for another may not run."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))][:2]
    return "\n".join([platform.machine(), platform.processor(), *named])


def _version(with_what: str) -> str:
    return subprocess.run([with_what, "--version"], capture_output=True, text=True).stdout
