"""Held-out images at the noise levels of a chain, and predictions of them computed by hand."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor

from classifiers.trained_model import load_classifier
from classifiers.validation import level_indices, open_heldout, predictions, read_images, step_at
from guided_diffusion.data.subset import evenly_spaced
from guided_diffusion.diffusion.chain import q_sample
from guided_diffusion.diffusion.noise import SeededNoise
from guided_diffusion.diffusion.schedules import make_chain

CHAIN = make_chain(tiny.CHAIN)
CPU = torch.device("cpu")


def bright_is_one(x_t: Tensor, t: Tensor) -> Tensor:
    """Knows its two classes from the mean brightness, and says the time in a third."""
    score = 10 * x_t.mean(dim=(1, 2, 3))
    return F.log_softmax(torch.stack([torch.zeros_like(score), score, t], dim=1), dim=1)


def pictures() -> Tensor:
    return torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch_size", [256, 7])
@pytest.mark.parametrize("k", [0, 20, 49])
def test_predictions_are_what_direct_computation_gives(batch_size, k):
    log_p = predictions(bright_is_one, CHAIN, pictures(), k=k, seed=3, device=CPU, batch_size=batch_size)
    x_t = q_sample(pictures(), SeededNoise(3, range(40))(pictures()), CHAIN.at(k, like=pictures()))
    assert torch.allclose(log_p, bright_is_one(x_t, torch.full((40,), float(k))), rtol=0, atol=1e-6)


def test_without_a_chain_pictures_are_predicted_as_they_are_at_time_zero():
    log_p = predictions(bright_is_one, None, pictures(), k=0, seed=0, device=CPU)
    assert torch.equal(log_p, bright_is_one(pictures(), torch.zeros(40)))
    step = step_at(None, 0, like=pictures())
    assert torch.equal(q_sample(pictures(), torch.full_like(pictures(), 9.0), step), pictures())


def test_levels_are_spread_over_the_whole_chain_without_repeating_one():
    assert level_indices(CHAIN, count=5) == [0, 12, 24, 37, 49]
    assert level_indices(CHAIN, count=500) == list(range(50))
    assert level_indices(None, count=5) == [0]


def test_of_many_pictures_evenly_spaced_ones_are_chosen():
    assert evenly_spaced(20, most=5) == [0, 5, 10, 14, 19]
    assert evenly_spaced(3, most=5) == [0, 1, 2]
    assert evenly_spaced(20, most=1) == [0]


def test_heldout_pictures_have_the_classifiers_numbering(tmp_path, judge_run):
    only_light = tiny.write_class_folder(tmp_path, classes=("light",), per_class=3)
    images, labels = read_images(open_heldout(tiny.data(only_light), load_classifier(judge_run).config), [0, 2])
    assert images.shape == (2, 1, 8, 8)
    assert labels.tolist() == [1, 1]


def test_heldout_pictures_of_other_channels_are_refused(tmp_path, judge_run):
    colour = tiny.write_class_folder(tmp_path, mode="RGB", per_class=1)
    with pytest.raises(ValueError, match=r"holds images of 3 channels, the classifier takes 1; --data.mode converts"):
        open_heldout(tiny.data(colour), load_classifier(judge_run).config)
