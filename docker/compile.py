"""A build hook of hatch: compiles the modules that pyproject.toml names, on every core."""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from mypyc.build import mypycify
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext


class Compile(BuildHookInterface[Any]):
    """Puts the compiled modules into the wheel, beside their sources.

    mypyc makes one library of all of them, which setuptools would compile file after file. That is
    the longest part of building the image, and each file stands for itself.
    """

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        work = Path(self._folder.name)
        extensions = mypycify(
            [f"--cache-dir={work / 'types'}", *self._modules()],
            opt_level="2",
            debug_level="0",
            multi_file=True,
            target_dir=str(work / "c"),
        )
        if os.name == "posix":
            for extension in extensions:  # one module's calls into another need no lookup
                extension.extra_compile_args.append("-fvisibility=hidden")
        command = BuildOnEveryCore(Distribution({"ext_modules": extensions}))
        command.build_lib, command.build_temp = str(work / "lib"), str(work / "objects")
        command.parallel = True
        command.ensure_finalized()
        command.run()
        for library in (work / "lib").rglob("*.*"):
            build_data["force_include"][str(library)] = str(library.relative_to(work / "lib"))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self._folder.cleanup()

    def _modules(self) -> list[str]:
        root = Path(self.root)
        excluded = {path for pattern in self.config["exclude"] for path in root.glob(pattern)}
        included = {path for pattern in self.config["include"] for path in root.glob(pattern)}
        return [str(path.relative_to(root)) for path in sorted(included - excluded)]


class BuildOnEveryCore(build_ext):
    """build_ext, but the files of one extension are compiled on every core.

    Each core gets one file that includes its share, which reads the headers once.
    """

    def build_extension(self, ext: Extension) -> None:
        cores = os.cpu_count() or 1
        sources = sorted(ext.sources, key=lambda source: Path(source).stat().st_size)
        shares = [sources[core::cores] for core in range(min(cores, len(sources)))]
        with ThreadPoolExecutor() as pool:
            objects = pool.map(lambda share: self._compiled(ext, share), shares)
        ext.extra_objects = [name for names in objects for name in names]
        ext.sources = []
        super().build_extension(ext)

    def _compiled(self, ext: Extension, sources: list[str]) -> list[str]:
        share = Path(sources[0]).with_suffix(".share.c")
        share.write_text("".join(f'#include "{Path(source).name}"\n' for source in sources))
        compiled: list[str] = self.compiler.compile(
            [str(share)],
            output_dir=self.build_temp,
            include_dirs=ext.include_dirs,
            extra_postargs=ext.extra_compile_args,
        )
        return compiled
