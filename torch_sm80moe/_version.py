"""The version of the package, written once; the build reads this file without torch."""

__version__ = "0.1.0"
