"""Crop and pack a data set once: python scripts/prepare_data.py --data.path SRC --size 64 --out DIR"""

from collections.abc import Sequence

from ..config import run_command
from ..data.preparation import PrepareConfig, prepare_data


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; argv: None takes the process's own arguments."""
    run_command(PrepareConfig, prepare_data, argv)
