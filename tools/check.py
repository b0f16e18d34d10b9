"""The one command before a commit: ruff, ruff format, mypy --strict and, with --tests, pytest; CI runs the same.

    python -m tools.check [--tests]

Stops at the first that fails, with its exit status.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy", "--strict"),  # which packages: pyproject.toml
)
TESTS = ("pytest",)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.check", description="Run the checks that CI runs.")
    parser.add_argument("--tests", action="store_true", help="run pytest too")
    arguments = parser.parse_args(argv)
    for command in (*CHECKS, TESTS) if arguments.tests else CHECKS:
        print("$", shlex.join(command), flush=True)
        status = subprocess.run([sys.executable, "-m", *command], cwd=ROOT).returncode
        if status != 0:
            return status if status > 0 else 128 - status  # killed by a signal: as a shell says it
    return 0


if __name__ == "__main__":
    sys.exit(main())
