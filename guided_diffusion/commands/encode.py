"""Images to DDIM's latents and back: python scripts/encode.py --diffusion RUN --data.path DIR --out DIR"""

from collections.abc import Sequence

from ..config import run_command
from ..generation.encoding import EncodeConfig, encode


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; argv: None takes the process's own arguments."""
    run_command(EncodeConfig, encode, argv)
