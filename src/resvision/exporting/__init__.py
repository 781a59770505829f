"""Exports: a classifier as a file that runs without this program."""

from resvision.exporting.bench import compare_runtimes
from resvision.exporting.export import Export, convert, describe, write
from resvision.exporting.verify import Verification

__all__ = ["Export", "Verification", "compare_runtimes", "convert", "describe", "write"]
