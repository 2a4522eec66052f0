"""Hands the build to build_tools; everything static is in pyproject.toml."""

from setuptools import setup

from build_tools.commands import BdistWheel, Build, BuildExt, BuildPy, extensions

setup(
    ext_modules=extensions(),
    cmdclass={
        "bdist_wheel": BdistWheel,
        "build": Build,
        "build_ext": BuildExt,
        "build_py": BuildPy,
    },
)
