"""Pairs of commands that are started together on one --out: each ends well or is refused in words, and the result is
that of one of them.

    python tests/races.py --rounds 40

does it for all commands that write files, half of the rounds with the same settings twice; test_races.py with a few.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import tiny
import writing_commands
from writing_commands import SETTINGS, differing, leftovers, result, start


def raced(command: str, material: Path, directory: Path, *, rounds: int, seed: int) -> Counter[str]:
    """Start a command twice, so many times; what became of the pairs."""
    rng, out, outcomes = random.Random(f"{command}{seed}"), directory / command, Counter[str]()
    alone: list[dict[str, bytes]] = []
    for setting in SETTINGS[command]:
        status, output = tiny.finish(start(command, material, out, setting))
        assert status == 0, output
        alone.append(result(out))
        shutil.rmtree(out)
    for _ in range(rounds):
        settings = (SETTINGS[command][0], rng.choice(SETTINGS[command]))
        pair = [start(command, material, out, settings[0])]
        time.sleep(rng.choice([0, rng.uniform(0, 0.3)]))
        pair.append(start(command, material, out, settings[1]))
        ends = [tiny.finish(program) for program in pair]
        outcomes[" and ".join(sorted("refused" if status else "done" for status, _ in ends))] += 1
        if wrong := _wrong(ends, out, alone):
            print(f"{command}: {wrong}", file=sys.stderr)
            outcomes["broken"] += 1
        shutil.rmtree(out, ignore_errors=True)
    return outcomes


def _wrong(ends: Sequence[tuple[int, str]], out: Path, alone: Sequence[dict[str, bytes]]) -> str:
    """A description of what must not be, empty where all is well."""
    for status, output in ends:
        if status not in (0, 2) or "Traceback" in output or (status == 2) != ("\nerror: " in f"\n{output}"):
            return f"status {status}: {output}"
    if all(status for status, _ in ends):
        return f"both were refused: {ends}"
    if left := leftovers(out):
        return f"leftovers {left}"
    found = [differing(result(out), one) for one in alone]
    return "" if [] in found else f"the result is neither's, and differs from them in {found}; {ends}"


def report(outcomes: Counter[str]) -> str:
    """The numbers in one line."""
    told = ", ".join(f"{name} {count}" for name, count in sorted(outcomes.items()) if name != "broken")
    return f"{told}; broken {outcomes['broken']}"


def main(commands: Sequence[str], *, rounds: int, seed: int) -> int:
    """Print what became of each pair; 1 if any is broken."""
    total = Counter[str]()
    with tempfile.TemporaryDirectory() as scratch:
        material = Path(scratch) / "material"
        writing_commands.write_material(material)
        for command in commands:
            begin = time.monotonic()
            outcomes = raced(command, material, Path(scratch), rounds=rounds, seed=seed)
            print(f"{command} twice: {report(outcomes)} ({time.monotonic() - begin:.0f} s)", flush=True)
            total += outcomes
    print(f"in all: {report(total)}")
    return int(total["broken"] > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="*", default=list(SETTINGS))
    given = parser.parse_args()
    sys.exit(main(given.commands, rounds=given.rounds, seed=given.seed))
