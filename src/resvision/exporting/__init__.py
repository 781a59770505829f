"""Exports: a classifier as a file that runs without this program."""

from resvision.exporting.write import Export, Format, check, default_name, write

__all__ = ["Export", "Format", "check", "default_name", "write"]
