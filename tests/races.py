"""Pairs of commands on one --out: each ends well or is refused in words, and the result is that of one of them.

A third of the pairs are started together. Of the others, both are halted right before a random change to their files;
then one goes on to its end, and then the other.

    python tests/races.py --rounds 40

does it for all commands that write files, half of the rounds with the same settings twice; test_races.py with a few.
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


def raced(command: str, material: Path, directory: Path, *, rounds: int, seed: int) -> Counter[str]:
    """Start a command twice, so many times; what became of the pairs."""
    rng, out, outcomes = random.Random(f"{command}{seed}"), directory / command, Counter[str]()
    alone: list[dict[str, bytes]] = []
    changes = 0
    for setting in SETTINGS[command]:
        status, output = tiny.finish(start(command, material, out, setting, at_change=(out, 0, 0)))
        assert status == 0, output
        changes = int(re.findall(r"^changes: (\d+)$", output, re.MULTILINE)[0])
        alone.append(result(out))
        shutil.rmtree(out)
    for _ in range(rounds):
        settings = (SETTINGS[command][0], rng.choice(SETTINGS[command]))
        is_halted, pair = rng.random() < 2 / 3, list[tiny.Program]()
        for setting in settings:
            number = max(1, round(changes * rng.random() ** 3))  # mostly early, where a directory is claimed
            moment = (out, number, signal.SIGSTOP) if is_halted else None
            pair.append(start(command, material, out, setting, at_change=moment))
            while is_halted and pair[-1].poll() is None and not _is_halted(pair[-1].pid):
                time.sleep(0.01)
        for program in rng.sample(pair, 2) if is_halted else ():
            program.send_signal(signal.SIGCONT)
            program.wait()
        ends = [tiny.finish(program) for program in pair]
        outcomes[" and ".join(sorted("refused" if status else "done" for status, _ in ends))] += 1
        if wrong := _wrong(ends, out, alone):
            print(f"{command}: {wrong}", file=sys.stderr)
            outcomes["broken"] += 1
        shutil.rmtree(out, ignore_errors=True)
    return outcomes


def _is_halted(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


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
