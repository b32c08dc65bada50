"""Compile the kernel while the package is built or installed.

Where no compiler or no header of Python is at hand, the package is built without it: the statistics
are then computed from torch's own pieces, as exact and a few times as slow. Reasons are printed by
``pip install --verbose``.
"""

from __future__ import annotations

import shutil
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

MODULE = "varprobe.statistics._kernel"
SOURCES = ("module.c", "moments.c")
HEADERS = ("moments.h", "block.h")

FLAGS = (
    "-std=c11",
    "-O3",
    "-fopenmp-simd",  # a word to the vectorizer; no OpenMP, no threads
    "-ffp-contract=off",  # the same bits with and without fused multiply-add
    "-fvisibility=hidden",
    "-g0",
)
"""gcc's and clang's. Another compiler refuses the code, and the package does without it."""


class KernelBuildHook(BuildHookInterface[Any]):
    """Adds the compiled kernel to a wheel, or puts it into the checkout of an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; hatchling calls this before it collects the files of a wheel."""
        self._directory = Path(tempfile.mkdtemp())
        binary = compile_kernel(Path(self.root), self._directory)
        if binary is None:
            self.app.display_warning("The kernel was not compiled; varprobe works without it.")
        elif version == "editable":
            _replace(Path(self.root, *MODULE.split(".")[:-1]) / binary.name, binary)
        else:
            build_data["pure_python"] = False
            build_data["tag"] = f"cp311-abi3-{_name_platform()}"
            build_data["force_include"][binary] = str(binary.relative_to(self._directory))

    def finalize(self, *_: object) -> None:
        """Remove what was compiled; hatchling calls this when the wheel is complete."""
        shutil.rmtree(self._directory)


def _replace(target: Path, binary: Path) -> None:
    # In one step: a process that runs the old one keeps it, where writing over it would crash it.
    new = target.with_suffix(".new")
    shutil.copy(binary, new)
    new.replace(target)


def compile_kernel(root: Path, directory: Path) -> Path | None:
    """Return the binary, under ``directory`` as it lies under a package path; None without one."""
    sources = root / "kernel"
    extension = Extension(
        MODULE,
        sources=[str(sources / name) for name in SOURCES],
        depends=[str(sources / name) for name in HEADERS],
        extra_compile_args=list(FLAGS),
        libraries=["m"],
        py_limited_api=True,
        optional=True,
    )
    command = build_ext(Distribution({"name": "varprobe", "ext_modules": [extension]}))
    command.build_lib = str(directory)
    command.build_temp = str(directory / "objects")
    command.ensure_finalized()
    command.run()
    binary = Path(command.get_ext_fullpath(MODULE))
    return binary if binary.exists() else None


def _name_platform() -> str:
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
