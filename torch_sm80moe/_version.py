"""The version of the package, written once; the build reads it from here without importing torch."""

__version__ = "0.1.0"
