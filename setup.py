"""Puts notebooks and the small data that they read into the built package; all else is in pyproject.toml."""

import tomllib
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PATTERNS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["dualrs-lab"]["workbench"]


class Build(build_py):
    """Copies them to dualrs_lab/workbench; an editable install finds them in the checkout."""

    def files(self) -> list[str]:
        return [path.relative_to(ROOT).as_posix() for one in PATTERNS for path in sorted(ROOT.glob(one))]

    def target(self, name: str) -> str:
        return str(Path(self.build_lib, "dualrs_lab", "workbench", name))

    def run(self) -> None:
        super().run()
        for name in [] if self.editable_mode else self.files():
            self.mkpath(str(Path(self.target(name)).parent))
            self.copy_file(str(ROOT / name), self.target(name), preserve_mode=False)

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *self.files()]  # so the sdist holds them, too

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        copied = [] if self.editable_mode else [self.target(name) for name in self.files()]
        return [*super().get_outputs(include_bytecode), *copied]


setup(cmdclass={"build_py": Build})
