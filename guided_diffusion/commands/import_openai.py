"""Make a run directory of a published file: python scripts/import_openai.py 64x64_diffusion.pt --out runs/adm64"""

import sys
from collections.abc import Sequence

from ..config import run_command
from ..openai.files import ImportConfig, import_openai, with_file_named


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; argv: None takes the process's own arguments."""
    run_command(ImportConfig, import_openai, with_file_named("file", sys.argv[1:] if argv is None else argv))
