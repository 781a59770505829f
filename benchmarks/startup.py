"""How long `resvision --help` takes, beside an empty Python program.

    python benchmarks/startup.py [--runs 11]

Prints one JSON document with medians in seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

from resvision.measure import seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="Start-up time of the command line.")
    parser.add_argument("--runs", type=int, default=11)
    runs = parser.parse_args().runs

    def timed(*arguments: str) -> float:
        command = [sys.executable, *arguments]
        return statistics.median(
            seconds(lambda: subprocess.run(command, check=True, capture_output=True), repeats=runs)
        )

    document = {
        "benchmark": "startup",
        "help_seconds": round(timed("-m", "resvision", "--help"), 3),
        "train_help_seconds": round(timed("-m", "resvision", "train", "--help"), 3),
        "empty_program_seconds": round(timed("-c", "pass"), 3),
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
