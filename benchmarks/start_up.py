"""Start-up: seconds of fresh processes from their start to their first result.

python benchmarks/start_up.py [--rounds 3]
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from networks import small, tiny, write_models
from rounds import Table, Way, reasons, shown, timed

from guided_diffusion.config import run_command

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class StartUpBenchmark:
    """Prints a row for each program."""

    rounds: int = 3
    """Rounds, each of which starts every program once."""
    tiny: bool = False
    """A checkpoint of 0.8 in place of 25 million parameters."""


def main(config: StartUpBenchmark) -> None:
    """Prints the table."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        ways = programs(directory, config)
        timings = timed(ways, rounds=config.rounds)
        rows = [[name, shown(timings.spread(name)), shown(timings.ratio(name, "import torch"))] for name in ways]
        note = f"A warm file cache. {reasons(timings)}"
        print(Table("Start-up", ("program", "seconds", "time / import torch"), rows, note))


def programs(directory: Path, config: StartUpBenchmark) -> dict[str, Way]:
    """Python programs by name; checkpoints are written first."""
    write_models(tiny() if config.tiny else small(), directory / "large")
    write_models(tiny(), directory / "digits")
    script, digits = str(ROOT / "scripts" / "sample.py"), directory / "digits"
    options = ["--diffusion", digits / "diffusion", "--classifier", digits / "classifier", "--num_samples", "1"]
    build = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import peers, networks; "
    saved = directory / "diffusers"
    subprocess.run(
        [sys.executable, "-c", f"{build}peers.diffusers_unet(networks.{'tiny' if config.tiny else 'small'}())"
         f".save_pretrained({str(saved)!r})"], capture_output=True, check=False,
    )  # fmt: skip
    load = (
        f"from pathlib import Path; from guided_diffusion import load_diffusion; "
        f"load_diffusion(Path('{directory}/large/diffusion'))"
    )
    load_theirs = f"from diffusers import UNet2DModel; UNet2DModel.from_pretrained({str(saved)!r})"
    return {
        "python": partial(_start, ["-c", ""]),
        "import torch": partial(_start, ["-c", "import torch"]),
        "ours: sample.py --help": partial(_start, [script, "--help"]),
        "ours: load a checkpoint": partial(_start, ["-c", load]),
        "diffusers: load a checkpoint": partial(_start, ["-c", load_theirs]),
        "ours: one guided sample at 8 pixels": lambda: _sample(script, options, directory),
    }


def _sample(script: str, options: Sequence[object], directory: Path) -> None:
    with TemporaryDirectory(dir=directory) as out:
        _start([script, *map(str, options), "--sampler.steps", "2", "--out", out])


def _start(arguments: Sequence[str]) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1])


if __name__ == "__main__":
    run_command(StartUpBenchmark, main)
