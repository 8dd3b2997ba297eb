"""Tables of several ways to do the same work: time, ratio to ours, and the share of the machine's peak."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from machine import Peak, peaks
from rounds import Missing, Spread, Table, Timings, Way, attempt, growth, reasons, shown, timed
from torch import nn

from guided_diffusion.compilation import call_cost


@dataclass(frozen=True)
class Work:
    """A way, and the work that one call of it does, all its parts together."""

    way: Way
    images: int
    flops: float
    """Operations of convolutions, matrix products and attention; 0: not counted."""
    parameters: int
    """Parameters of the networks."""
    parts: int = 1
    """Steps of a call; milliseconds are those of one."""


def offered(make: Callable[[], Work]) -> Work | Missing:
    """The work that `make` sets up, or the reason why it could not."""
    made = attempt(make)
    assert isinstance(made, Work | Missing)
    return made


def counted(network: Callable[[], nn.Module], call: Callable[[nn.Module], object]) -> tuple[float, int]:
    """Operations of `call`, and parameters of the network, on the device "meta", where nothing is computed."""
    with torch.inference_mode(False), torch.device("meta"):  # which would hide convolutions from the count
        built = network()
        return call_cost(lambda: call(built)).flops, parameters(built)


def parameters(*networks: nn.Module) -> int:
    """Numbers that were learned."""
    return sum(parameter.numel() for network in networks for parameter in network.parameters())


def compared(
    title: str, works: Mapping[str, Work | Missing], *, rounds: int, device: torch.device, note: str = ""
) -> str:
    """A table of the works, the first of which is ours by default, and one of the peaks in the same rounds."""
    highest = peaks(device)
    ways = {name: work if isinstance(work, Missing) else work.way for name, work in works.items()}
    timings = timed(ways | {name: peak.way for name, peak in highest.items()}, rounds=rounds)
    matrix = next(iter(highest))
    rows = [[name, *_cells(timings, name, work, matrix=matrix, peak=highest[matrix]), _ratio(timings, works, name)]
            for name, work in works.items()]  # fmt: skip
    columns = (
        "way", "parameters", "GFLOP", "ms", "images/s", "GFLOP/s", f"% of the {matrix}", "ms / ours by default",
    )  # fmt: skip
    text = " ".join(part for part in (note, reasons(timings)) if part)
    return f"{Table(title, columns, rows, text)}\n{_peak_table(timings, highest)}"


def _cells(timings: Timings, name: str, work: Work | Missing, *, matrix: str, peak: Peak) -> list[str]:
    shares = timings.ratio(matrix, name)
    if isinstance(work, Missing) or shares is None:
        return ["", "", *[shown(None)] * 4]
    share = Spread(*(100 * one * work.flops / peak.work for one in shares))
    of_flops = [f"{work.flops / work.parts / 1e9:.4g}", shown(timings.rate(name, work.flops), unit=1e9), shown(share)]
    operations, rate, part = of_flops if work.flops else [""] * 3
    milliseconds = shown(timings.spread(name), unit=1e-3 * work.parts)
    return [f"{work.parameters:,}", operations, milliseconds, shown(timings.rate(name, work.images)), rate, part]


def _ratio(timings: Timings, works: Mapping[str, Work | Missing], name: str) -> str:
    """Milliseconds of a part over those of the first of the works."""
    first = next(iter(works))
    ours, work = works[first], works[name]
    ratio = timings.ratio(name, first)
    if isinstance(ours, Missing) or isinstance(work, Missing) or ratio is None:
        return shown(None)
    return shown(ratio, unit=work.parts / ours.parts)


def _peak_table(timings: Timings, highest: Mapping[str, Peak]) -> Table:
    rows = [[name, shown(timings.rate(name, peak.work), unit=1e9), "GB/s" if name == "memory" else "GFLOP/s"]
            for name, peak in highest.items()]  # fmt: skip
    note = "Convolutions: 3x3, 256 channels at 32 pixels. Memory: bytes read and written by a copy."
    return Table("Peaks of this machine in the same rounds", ("work", "rate", "unit"), rows, note)


def grown(title: str, series: Mapping[str, Mapping[int, Way | Missing]], *, rounds: int = 3, note: str = "") -> Table:
    """The milliseconds of each size of each series, and the exponent with which they grow."""
    ways = {f"{name} {size}": way for name, sizes in series.items() for size, way in sizes.items()}
    timings = timed(ways, rounds=rounds)
    rows: list[Sequence[str]] = []
    for name, sizes in series.items():
        spreads = {size: timings.spread(f"{name} {size}") for size in sizes}
        each = ", ".join(f"{size}: {shown(spread, unit=1e-3)}" for size, spread in spreads.items())
        rows.append([name, each, growth(spreads)])
    text = " ".join(part for part in (note, reasons(timings)) if part)
    return Table(title, ("size", "ms", "exponent"), rows, text)
