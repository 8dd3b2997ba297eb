"""Rows of gpu.py: functions that yield lines of the table (work, way, images/s, ms, TFLOP/s, peak GiB, remarks)."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from comparison import counted
from machine import peaks
from networks import (
    Size,
    first_batch,
    iterate,
    published,
    sampling_run,
    tiny,
    training_state,
    unet,
    write_models,
)
from peers import PlainGuidance, diffusers_unet, plain_iteration
from rounds import Missing, Spread, Way, attempt, seconds_of, shown, synchronize, timed
from torch import Tensor, nn

from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.distributed import default_device

QUOTED = {
    "ADM-64 forward, batch 64": 572, "ADM-64 training, batch 64": 157, "ADM-64 guided step, batch 64": 241,
    "ADM-256 forward, batch 16": 78,
}  # fmt: skip
"""Images a second of the published code in float16 on an H100 80GB, not measured by this script."""

Line = list[str]
ITERATIONS = 10
"""Iterations of training that are timed together, since the host runs ahead of the device."""
STEPS = 4
"""Steps of DDIM whose mean is a guided step."""


@dataclass(frozen=True)
class Sizes:
    """Networks and batches of the rows, or tiny ones for a trial."""

    tiny: bool

    def of(self, name: str, batch: int) -> tuple[Size, int]:
        """The networks of configs/NAME, and the batch."""
        return (tiny(), 2) if self.tiny else (published(name), batch)


_stored = TemporaryDirectory(prefix="benchmark-")


@cache
def models(size: Size) -> Path:
    """Run directories of a size, which several rows share, until this process ends."""
    directory = Path(_stored.name) / str(len(list(Path(_stored.name).iterdir())))
    write_models(size, directory)
    return directory


def of_one(seconds: Spread, count: int) -> Spread:
    """Seconds of one of `count` equal parts."""
    return Spread(*(one / count for one in seconds))


def line(work: str, way: str, seconds: Spread, images: int, *, flops: float = 0, remarks: str = "") -> Line:
    """A line of the table; images, flops: of one call. The peak memory is that since it was last reset."""
    peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if torch.cuda.is_available() else ""
    operations = shown(seconds.rate(flops), unit=1e12) if flops else ""
    return [work, way, shown(seconds.rate(images)), shown(seconds, unit=1e-3), operations, peak, remarks]


def quoted(work: str) -> Iterator[Line]:
    """The published code's figure, where there is one."""
    if work in QUOTED:
        yield [work, "published code, float16", f"{QUOTED[work]} (quoted)"]


def measured(way: Way, *, rounds: int = 7, warm_ups: int = 2) -> tuple[Spread, float]:
    """Seconds of a call, and of the first one, which may compile and comes before the warm-ups."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    first = seconds_of(way)
    timings = timed({"way": way}, rounds=rounds, warm_ups=warm_ups)
    found = timings.spread("way")
    if found is None:
        raise RuntimeError(timings.missing["way"])
    return found, first


def peak_rows(sizes: Sizes) -> Iterator[Line]:
    """The machine's peaks."""
    for name, peak in peaks(default_device()).items():
        seconds, _ = measured(peak.way)
        unit = "GB/s" if name == "memory" else "TFLOP/s"
        rate = shown(seconds.rate(peak.work), unit=1e9 if unit == "GB/s" else 1e12)
        yield ["peak", name, "", shown(seconds, unit=1e-3), f"{rate} {unit}"]


def forward_rows(sizes: Sizes, *, name: str, called: str, batch: int) -> Iterator[Line]:
    """Forward passes: uncompiled ones, diffusers', and ours by default, with its deviation from float32."""
    size, batch = sizes.of(name, batch)
    work, device = f"{called} forward, batch {batch}", default_device()
    yield from quoted(work)
    x_t, t, y = size.inputs(batch, device)
    labels = (y,) if size.is_conditional else ()
    flops, _ = counted(lambda: unet(size), lambda network: network(*(one.to("meta") for one in (x_t, t, *labels))))
    built = unet(size).to(device).eval().requires_grad_(False)
    with torch.no_grad():
        expected, call = built(x_t, t, *labels), partial(_forward, built, (x_t, t, *labels), torch.float32)
        yield line(work, "ours as built, float32", measured(call)[0], batch, flops=flops)
        built.to(memory_format=torch.channels_last)
        for dtype in (torch.bfloat16, torch.float16) if device.type == "cuda" else (torch.bfloat16,):
            call = partial(_forward, built, (x_t, t, *labels), dtype)
            way = f"ours uncompiled, {str(dtype).removeprefix('torch.')} autocast, channels_last"
            yield line(work, way, measured(call)[0], batch, flops=flops, remarks=_deviation(call(), expected))
        del built, call
        theirs = attempt(partial(diffusers_unet, size))
        if isinstance(theirs, Missing):
            yield [work, "diffusers", "not measured", "", "", "", theirs.reason]
        elif isinstance(theirs, nn.Module):
            theirs.to(device, torch.bfloat16, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
            inputs = (x_t.bfloat16(), t, *labels)
            seconds, _ = measured(lambda: theirs(*inputs))
            yield line(work, "diffusers, bfloat16, channels_last", seconds, batch, flops=flops)
            del theirs
        yield from _by_default(size, batch, work, flops=flops, inputs=(x_t, t, *labels), expected=expected)


def _by_default(
    size: Size, batch: int, work: str, *, flops: float, inputs: tuple[Tensor, ...], expected: Tensor
) -> Iterator[Line]:
    run = sampling_run(models(size), steps=25, batch=batch, guided=False)
    network = run.model.network
    seconds, first = measured(lambda: network(*inputs))
    found = network(*inputs)
    remarks = f"{run.settings.precision}; first call {first:.1f} s; {_deviation(found, expected)}"
    yield line(work, "ours by default", seconds, batch, flops=flops, remarks=remarks)


def _forward(network: nn.Module, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    with torch.autocast(inputs[0].device.type, dtype=dtype, enabled=dtype != torch.float32):
        return network(*inputs)


def _deviation(found: Tensor, expected: Tensor) -> str:
    difference, scale = found.double() - expected.double(), expected.double().square().mean().sqrt()
    rms = float(difference.square().mean().sqrt() / scale)
    return f"from float32: RMS {rms:.1e}, largest {float(difference.abs().max() / scale):.1e} of the outputs' RMS"


def guided_rows(sizes: Sizes, *, name: str, called: str, batch: int) -> Iterator[Line]:
    """Guided steps: ours by default, its peak memory over steps, and the plain way in float32."""
    size, batch = sizes.of(name, batch)
    work, device = f"{called} guided step, batch {batch}", default_device()
    yield from quoted(work)
    run = sampling_run(models(size), steps=STEPS, batch=batch)
    way = partial(_sampled, run, batch)
    seconds, first = measured(way, rounds=3)
    remarks = f"{run.settings.precision}; first {STEPS} steps {first:.1f} s; {idle_share(way)}"
    yield line(work, "ours by default", of_one(seconds, STEPS), batch, remarks=remarks)
    drawn, images = first_batch(run, batch), way()
    levels = list(zip(run.chain.t.tolist(), run.chain.alpha_bar.tolist(), strict=True))[::-1]
    x_T = drawn.noise(torch.empty(batch, *run.model.image_shape, device=device))
    del run, way
    guidance = PlainGuidance(size, device)
    plain_way = partial(guidance.sample, x_T, drawn.y, levels)
    differing = float((plain_way().int() - images.int()).abs().float().mean())
    remarks = f"ours by default differs by {differing:.2g} grey levels on average"
    yield line(work, "plain way, float32", of_one(measured(plain_way, rounds=3)[0], STEPS), batch, remarks=remarks)


def training_rows(
    sizes: Sizes, *, name: str, called: str, batch: int, ways: dict[str, dict[str, Any]], fraction: float = 1.0
) -> Iterator[Line]:
    """Training iterations with their images' loading, by ways: changes of the loop's config; then diffusers'."""
    size, batch = sizes.of(name, batch)
    work, device = f"{called} training, batch {batch}", default_device()
    yield from quoted(work)
    if fraction < 1:
        work += f", {fraction:.0%} of the memory"
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(fraction)
    flops, _ = counted(lambda: unet(size), lambda network: _loss(network, size, batch))
    for way, changes in ways.items():
        with TemporaryDirectory() as directory:
            begun = time.perf_counter()
            state = training_state(size, Path(directory), batch=batch, num_workers=2, **changes)
            begun, stream = time.perf_counter() - begun, state.micro_batches()
            several = partial(iterate, state, stream, ITERATIONS)
            seconds, _ = measured(several, rounds=3, warm_ups=0)
            remarks = f"set up in {begun:.1f} s; {state.micro_size} images at a time; {idle_share(several)}"
            yield line(work, way, of_one(seconds, ITERATIONS), batch, flops=flops, remarks=remarks)
            del state, stream, several
    if fraction == 1:
        yield from _diffusers_training(size, batch, work, flops)


def _diffusers_training(size: Size, batch: int, work: str, flops: float) -> Iterator[Line]:
    theirs, device = attempt(partial(diffusers_unet, size)), default_device()
    if isinstance(theirs, Missing):
        yield [work, "diffusers", "not measured", "", "", "", theirs.reason]
    elif isinstance(theirs, nn.Module):
        theirs.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        half = torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else None
        iteration = plain_iteration(theirs, size, batch, precision=half)
        yield line(work, "diffusers, bfloat16, channels_last", measured(iteration)[0], batch, flops=flops)


def _loss(network: nn.Module, size: Size, batch: int) -> None:
    x_t, t, y = size.inputs(batch, "meta")
    network(x_t, t, *((y,) if size.is_conditional else ())).mean().backward()


def noise_rows(sizes: Sizes) -> Iterator[Line]:
    """Drawing noise of each sample's own generator, to the device."""
    for batch, side in ((64, 64), (16, 256), (256, 32)):
        like = torch.empty(batch, 3, side, side, device=default_device())
        noise = SeededNoise(0, range(batch))
        yield line("noise", f"{batch} images of {side} pixels", measured(lambda: noise(like))[0], batch)  # noqa: B023


def whole_run_rows(sizes: Sizes, *, name: str, called: str, batch: int) -> Iterator[Line]:
    """Unguided runs of two lengths, whose peak memory is to be the same, and the device's idle share."""
    size, batch = sizes.of(name, batch)
    for steps in (4, 16):
        run = sampling_run(models(size), steps=steps, batch=batch, guided=False)
        way = partial(_sampled, run, batch)
        seconds, _ = measured(way, rounds=3)
        yield line(f"{called} run, batch {batch}", f"{steps} steps", seconds, batch, remarks=idle_share(way))


def _sampled(run: Any, batch: int) -> Tensor:
    return run.sample(first_batch(run, batch))


def idle_share(work: Way) -> str:
    """The share of a call's time in which the GPU computes and copies nothing, in words."""
    if not torch.cuda.is_available():
        return "idle share not measured"
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    seconds = seconds_of(work)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        synchronize()
    spans = sorted((event.time_range.start, event.time_range.end) for event in profiler.events()
                   if event.device_type == DeviceType.CUDA and not event.is_user_annotation)  # fmt: skip
    busy, end = 0.0, float("-inf")
    for start, stop in spans:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return f"GPU idle {max(0.0, 1 - busy / 1e6 / seconds):.0%}"


UNCOMPILED = {"ours uncompiled": {"compile": False}}
PLAIN = {"ours as built, float32, uncompiled": {"compile": False, "precision": "float32"}}
ROWS: dict[str, tuple[Callable[[Sizes], Iterator[Line]], float]] = {
    "peaks": (peak_rows, 20),
    "noise": (noise_rows, 10),
    "forward64": (partial(forward_rows, name="imagenet64", called="ADM-64", batch=64), 120),
    "training64": (
        partial(training_rows, name="imagenet64", called="ADM-64", batch=64, ways={"ours by default": {}} | UNCOMPILED),
        200,
    ),
    "guided64": (partial(guided_rows, name="imagenet64", called="ADM-64", batch=64), 150),
    "cifar10": (
        partial(training_rows, name="cifar10", called="CIFAR-10", batch=128, ways={"ours by default": {}} | PLAIN),
        150,
    ),
    "training256": (
        partial(training_rows, name="imagenet256", called="ADM-256", batch=16, ways={"ours by default": {}}), 200,
    ),
    "half_memory": (
        partial(training_rows, name="imagenet256", called="ADM-256", batch=16, ways=UNCOMPILED, fraction=0.5), 60,
    ),
    "forward256": (partial(forward_rows, name="imagenet256", called="ADM-256", batch=16), 150),
    "cifar10_run": (partial(whole_run_rows, name="cifar10", called="CIFAR-10", batch=256), 90),
    "run64": (partial(whole_run_rows, name="imagenet64", called="ADM-64", batch=64), 90),
}  # fmt: skip
"""Rows by name in the order of their importance, and the most seconds that each may take."""
