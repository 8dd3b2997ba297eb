"""The pass through an extractor: it never waits for the extractor's device, and reads ahead meanwhile."""

from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest
import torch
from evaluation.pixel_extractor import LABELS, PixelExtractor, noisy_images, save_samples
from torch import Tensor

from guided_diffusion.data.image_set import ImageSet, open_image_set
from guided_diffusion.distributed import Process
from guided_diffusion.evaluation.extractors.features import Features, on_device
from guided_diffusion.evaluation.feature_cache import FeatureCache
from guided_diffusion.evaluation.measure import MeasuredSet, measure

MANY = LABELS.repeat(5)
"""More images than the rows that are merged at a time."""


@dataclass(frozen=True)
class Moved(PixelExtractor):
    """Features on another device, but those of the first image, by whose shape and values the pass begins."""

    device: str = "cpu"
    calls: list[int] = field(default_factory=list)

    def __call__(self, images_uint8: Tensor) -> Features:
        self.calls.append(len(images_uint8))
        found = super().__call__(images_uint8)
        return found if len(self.calls) == 1 else Features(*(rows.to(self.device) for rows in vars(found).values()))


def measured(samples: Path, extractor: PixelExtractor, *, device: str = "cpu") -> MeasuredSet:
    cache = FeatureCache(samples / "parts", every_seconds=1000)
    process = Process(torch.device(device), rank=0, world_size=1)
    return measure(
        open_image_set(samples), extractor, batch_size=10, manifold_size=50, process=process, name="x", cache=cache
    )  # fmt: skip


def test_no_batch_waits_for_the_device_of_the_extractor(tmp_path: Path) -> None:
    """Tensors on the meta device have no values: the first look at one fails, which may be after the last batch."""
    samples = save_samples(tmp_path / "samples", noisy_images(MANY, seed=0), MANY)
    extractor = Moved(device="meta")
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        measured(samples, extractor, device="meta")
    assert extractor.calls == [1] + [10] * 60


def test_the_next_batch_is_read_while_the_extractor_computes(samples: Path, monkeypatch) -> None:
    all_batches, second_is_read = ImageSet.batches, Event()

    def watched(*arguments, **ranges):
        for number, batch in enumerate(all_batches(*arguments, **ranges)):
            if number == 1:
                second_is_read.set()
            yield batch

    class Waiting(PixelExtractor):
        def __call__(self, images_uint8: Tensor) -> Features:
            assert len(images_uint8) == 1 or second_is_read.wait(timeout=20)
            return super().__call__(images_uint8)

    monkeypatch.setattr(ImageSet, "batches", watched)
    assert measured(samples, Waiting()).pooled.count == 120


def test_broken_weights_are_refused_after_one_image(samples: Path) -> None:
    calls: list[int] = []

    class Broken(PixelExtractor):
        def __call__(self, images_uint8: Tensor) -> Features:
            calls.append(len(images_uint8))
            return Features(torch.full((len(images_uint8), 5), torch.nan))

    with pytest.raises(ValueError, match="not finite; its weights or its precision"):
        measured(samples, Broken())
    assert calls == [1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_batch_synchronises_with_a_gpu(tmp_path: Path) -> None:
    samples = save_samples(tmp_path / "samples", noisy_images(MANY, seed=0), MANY)

    class Watched(Moved):
        def __call__(self, images_uint8: Tensor) -> Features:
            copied = on_device(images_uint8, torch.device("cuda"))
            torch.cuda.set_sync_debug_mode("default")  # this extractor itself synchronises
            found = super().__call__(copied.cpu())
            torch.cuda.set_sync_debug_mode("error" if 1 < len(self.calls) <= 60 else "default")
            return found

    assert measured(samples, Watched(device="cuda"), device="cuda").pooled.count == 600
