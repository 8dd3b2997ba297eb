"""Look through a data set: python scripts/inspect_data.py --data.path DIR --size 64 --out page.png"""

from collections.abc import Sequence

from ..config import run_command
from ..data.inspection import InspectConfig, inspect_data


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; argv: None takes the process's own arguments."""
    run_command(InspectConfig, inspect_data, argv)
