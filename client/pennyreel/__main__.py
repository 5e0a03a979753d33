"""`python -m pennyreel` and the command `pennyreel`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from pennyreel.cli.app import run  # noqa: PLC0415 - importing this module starts nothing

    sys.exit(run())


if __name__ == "__main__":
    main()
