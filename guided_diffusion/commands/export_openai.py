"""Write a checkpoint in the published layout: python scripts/export_openai.py runs/adm64 --out adm64.pt"""

import sys
from collections.abc import Sequence

from ..config import run_command
from ..openai.files import ExportConfig, export_openai, with_file_named


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; argv: None takes the process's own arguments."""
    run_command(ExportConfig, export_openai, with_file_named("run", sys.argv[1:] if argv is None else argv))
