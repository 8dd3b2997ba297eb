"""Scripts as processes of their own that need not import torch first, which takes seconds.

A server process, one for all workers of a test run, imports the libraries once and forks for every script that is
started. The scripts are processes like any other: signals end them, and they have their own memory, environment and
exit status.

    python tests/programs.py SOCKET

is the server; tests call `start`.
"""

import atexit
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

REPOSITORY = Path(__file__).parents[1]
IMPORTED = (
    "accelerate", "PIL.Image", "scipy.linalg", "torch.distributed.fsdp", "torch.distributed.tensor",
    "torch.utils.data", "torchmetrics",
    *(f"guided_diffusion.commands.{path.stem}" for path in sorted((REPOSITORY / "scripts").glob("*.py"))),
)  # fmt: skip
"""Modules that the server imports for all scripts."""


class Program:
    """A script on one or more processes. If one of them fails, the others are asked to end, as torchrun does."""

    def __init__(self, pids: Sequence[int], output: Path) -> None:
        self.pids, self.output = list(pids), output
        self.returncode: int | None = None
        self._statuses: dict[int, int] = {}

    @property
    def pid(self) -> int:
        """The first process."""
        return self.pids[0]

    def poll(self) -> int | None:
        """Exit status, as subprocess has it: that of the first process to fail, or 0; None while processes run."""
        for pid in self.pids:
            if pid not in self._statuses and (status := _ask({"wait": pid})) is not None:
                self._statuses[pid] = status
                if status != 0 and self.returncode is None:
                    self.returncode = status
                    self.send_signal(signal.SIGTERM)
        if len(self._statuses) < len(self.pids):
            return None
        self.returncode = self.returncode or 0
        return self.returncode

    def wait(self, timeout: float = 120) -> int:
        """Exit status, once all processes have ended.

        Raises:
            subprocess.TimeoutExpired: they have not.
        """
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.output), timeout)
            time.sleep(0.02)  # an answer costs the server time that the process wants
        return status

    def send_signal(self, number: int, *, to: Sequence[int] | None = None) -> None:
        """Signal all processes, or some of them."""
        for pid in self.pids if to is None else to:
            if pid not in self._statuses:  # until the server has waited for it, a process keeps its number
                os.kill(pid, number)

    def finish(self, *, timeout: float = 120) -> tuple[int, str]:
        """Exit status, and all that was printed."""
        try:
            status = self.wait(timeout)
        finally:
            self.send_signal(signal.SIGKILL)
        return status, self.output.read_text()


def start(
    path: Path, *options: str, processes: int = 1, threads: int = 1, at_change: Sequence[Any] | None = None
) -> Program:
    """A Python file as a program; several processes find one another as under torchrun.

    threads: of each process's arithmetic. at_change: a directory, the number of a change below it (a file opened for
    writing, renamed, removed, ..), and the signal that a process sends itself right before that change; with number 0
    it counts them and prints "changes: N" at its end.
    """
    # A user's shell says nothing of accelerate, which must find out by itself that there are processes but no GPU.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    handle, output = tempfile.mkstemp(prefix="output-", dir=_directory())
    os.close(handle)
    group = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    pids = [
        _ask({
            "argv": [str(path), *options],
            "env": environment | (group | {"RANK": str(i), "LOCAL_RANK": str(i)} if processes > 1 else {}),
            "output": output,
            "threads": threads,
            "at_change": at_change and [str(at_change[0]), *at_change[1:]],
        })
        for i in range(processes)
    ]  # fmt: skip
    return Program(pids, Path(output))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


_connection: TextIO | None = None
_outputs: tempfile.TemporaryDirectory[str] | None = None


def _directory() -> str:
    global _outputs
    _outputs = _outputs or tempfile.TemporaryDirectory()
    return _outputs.name


def _ask(request: dict[str, Any]) -> Any:
    global _connection
    _connection = _connection or _connected()
    _connection.write(json.dumps(request) + "\n")
    _connection.flush()
    return json.loads(_connection.readline())


def _connected() -> TextIO:
    """A connection to the server, which the first worker to ask for it starts while the others wait."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", os.getpid())
    path = Path(tempfile.gettempdir()) / f"programs-{run}"
    connection = socket.socket(socket.AF_UNIX)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            connection.connect(str(path))
        except OSError:  # there is none yet, or it was killed
            path.unlink(missing_ok=True)
            environment = os.environ | {
                "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}",
                "OMP_NUM_THREADS": "1",
            }
            command = [sys.executable, str(Path(__file__)), str(path)]
            server = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment, cwd=REPOSITORY
            )
            assert server.stdout is not None
            server.stdout.readline()  # it listens
            connection.connect(str(path))
    return connection.makefile("rw")


def _serve(path: Path) -> dict[str, Any]:
    """Answer requests until all workers have ended; in a forked process, return its own request."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # or every program's first collection would copy this process's memory
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    print("listening", flush=True)
    workers: dict[socket.socket, TextIO] = {}
    while True:
        for ready in select.select([listener, *workers], [], [])[0]:
            if ready is listener:
                worker, _ = listener.accept()
                workers[worker] = worker.makefile("r")
            elif line := workers[ready].readline():  # each waits for its answer before it asks again
                request = json.loads(line)
                answer = _status(request["wait"]) if "wait" in request else os.fork()
                if answer == 0 and "wait" not in request:
                    for opened in (listener, *workers, *workers.values()):
                        opened.close()
                    return request
                ready.sendall(f"{json.dumps(answer)}\n".encode())
            else:
                del workers[ready]
        if not workers:
            path.unlink()
            path.with_suffix(".lock").unlink(missing_ok=True)
            sys.exit()


def _status(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _become(request: dict[str, Any]) -> None:
    """Be the program that was asked for, from here to the end of this process."""
    import torch

    os.environ.clear()
    os.environ.update(request["env"])
    output = os.open(request["output"], os.O_WRONLY | os.O_APPEND)
    for stream, target in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(target, stream)
    torch.set_num_threads(request["threads"])
    if request["at_change"]:
        _signal_before(*request["at_change"])
    sys.argv = request["argv"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


def _signal_before(directory: str, number: int, signal_number: int) -> None:
    """Send this process a signal right before a change to the files below a directory."""
    changes = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
    count = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        is_written = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if is_written or event in changes:
            path = arguments[0]
            if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(directory):
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal_number)

    sys.addaudithook(watch)
    if number == 0:
        atexit.register(lambda: print(f"changes: {count}", file=sys.stderr))


def _ended(request: dict[str, Any]) -> int:
    """Exit status of the program that was asked for, once it has ended, with what programs do at their end."""
    status = 0
    try:
        _become(request)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    os._exit(
        _ended(_serve(Path(sys.argv[1])))
    )  # an interpreter of so many modules takes more than a second to be taken apart
