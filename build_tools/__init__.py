"""Builds, inspects and proves the native library. Not part of the installed package."""
