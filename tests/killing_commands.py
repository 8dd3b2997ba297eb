"""Commands that are killed and asked to stop at random moments, run again to their end, and compared with undisturbed
ones.

    python tests/killing_commands.py --kills 300

does it for all commands that write files; test_killed_commands.py does it with a few.
"""

import argparse
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import tiny
import writing_commands
from writing_commands import SETTINGS, differing, leftovers, result, start

Outcomes = Counter[str]
"""Numbers of kills, and of what must not be: differing files, dead ends and leftovers."""


def killed_equals_undisturbed(command: str, material: Path, directory: Path, *, kills: int, seed: int) -> Outcomes:
    """Kill a command `kills` times in rounds of one to three, each of which is then run to its end and compared.

    Half of the kills come right before a change to the files, at a random one; the others, SIGKILL or SIGTERM, at a
    random time after the first change.
    """
    rng, out, outcomes = random.Random(f"{command}{seed}"), directory / command, Counter[str]()
    setting = SETTINGS[command][0]
    program = start(command, material, out, setting, at_change=(out, 0, 0))
    changed_at = _wait_for_change(program, out)
    status, output = tiny.finish(program)
    assert status == 0, output
    duration, undisturbed = time.monotonic() - changed_at, result(out)
    (changes,) = map(int, re.findall(r"^changes: (\d+)$", output, re.MULTILINE))
    while outcomes["kills"] < kills:
        shutil.rmtree(out)
        for _ in range(min(rng.randint(1, 3), kills - outcomes["kills"])):
            _kill(command, material, out, setting, rng=rng, changes=changes, duration=duration)
            outcomes["kills"] += 1
        status, output = tiny.finish(start(command, material, out, setting))
        found, left = differing(result(out), undisturbed), leftovers(out)
        for kind, wrong in {"dead ends": output if status else "", "leftovers": left, "differing": found}.items():
            if wrong:
                print(f"{command}: {kind}: {wrong}", file=sys.stderr)
                outcomes[kind] += 1
    shutil.rmtree(out)
    return outcomes


def _kill(
    command: str, material: Path, out: Path, setting: str, *, rng: random.Random, changes: int, duration: float
) -> None:
    """Start a command and end it somewhere.

    Raises:
        AssertionError: it failed, instead of being killed or done.
    """
    if rng.random() < 0.5:
        number, moment = signal.SIGKILL, (out, rng.randint(1, changes), signal.SIGKILL)
        program = start(command, material, out, setting, at_change=moment)
    else:
        program, number = start(command, material, out, setting), rng.choice([signal.SIGKILL, signal.SIGTERM])
        _wait_for_change(program, out)
        time.sleep(rng.uniform(0, duration))
        program.send_signal(number)
    status, output = tiny.finish(program)
    if status not in (0, -number):
        raise AssertionError(f"{command} ended with status {status} where {number.name} was sent:\n{output}")


def _wait_for_change(program: tiny.Program, out: Path) -> float:
    """Wait until something is in a directory that was not, or has another time, and return the moment."""

    def state() -> list[tuple[str, int]]:
        return [(path.name, path.lstat().st_mtime_ns) for path in (out, *out.glob("*")) if path.exists()]

    before = state()
    while program.poll() is None and state() == before:
        time.sleep(0.005)
    return time.monotonic()


def report(outcomes: Outcomes) -> str:
    """The numbers in one line."""
    return ", ".join(f"{outcomes[kind]} {kind}" for kind in ("kills", "differing", "dead ends", "leftovers"))


def main(commands: Sequence[str], *, kills: int, seed: int) -> int:
    """Print what became of each command; 1 if any of it must not be."""
    total: Outcomes = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        material = Path(scratch) / "material"
        writing_commands.write_material(material)
        for number, command in enumerate(commands):
            share = kills // len(commands) + (number < kills % len(commands))
            begin = time.monotonic()
            outcomes = killed_equals_undisturbed(command, material, Path(scratch), kills=share, seed=seed)
            print(f"{command}: {report(outcomes)} ({time.monotonic() - begin:.0f} s)", flush=True)
            total += outcomes
    print(f"in all: {report(total)}")
    return int(any(total[kind] for kind in ("differing", "dead ends", "leftovers")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="*", default=list(SETTINGS))
    given = parser.parse_args()
    sys.exit(main(given.commands, kills=given.kills, seed=given.seed))
