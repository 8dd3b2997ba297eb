"""Finding the published weights of the networks that measure."""

from pathlib import Path

import pytest
import torch
from torch import nn

from guided_diffusion.evaluation.extractors import dinov2, inception, weights
from guided_diffusion.evaluation.extractors.weights import PublishedWeights, find_weights, load_weights

PUBLISHED = (inception.WEIGHTS, dinov2.WEIGHTS)


@pytest.fixture(params=PUBLISHED, ids=lambda published: published.number)
def published(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PublishedWeights:
    """With an empty cache and no environment variable."""
    monkeypatch.setattr(weights, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.delenv(request.param.variable, raising=False)
    return request.param


def test_they_are_looked_for_in_the_argument_the_variable_and_the_cache(
    published: PublishedWeights, tmp_path: Path, monkeypatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("nothing was to be downloaded")

    monkeypatch.setattr(weights, "download_url_to_file", fail)
    argument, variable = tmp_path / "argument.pth", tmp_path / "variable.pth"
    cached = tmp_path / "hub" / "checkpoints" / Path(published.url).name
    for path in (argument, variable, cached):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setenv(published.variable, str(variable))
    assert find_weights(published, argument) == argument
    assert find_weights(published, None) == variable
    monkeypatch.delenv(published.variable)
    assert find_weights(published, None) == cached


def test_without_a_network_the_error_says_all_three_ways(
    published: PublishedWeights, tmp_path: Path, monkeypatch
) -> None:
    def offline(url: str, target: str, *, hash_prefix: str) -> None:
        assert (url, hash_prefix) == (published.url, published.sha256)
        raise OSError("no route to host")

    monkeypatch.setattr(weights, "download_url_to_file", offline)
    with pytest.raises(FileNotFoundError, match="no route to host") as caught:
        find_weights(published, None)
    cache = tmp_path / "hub" / "checkpoints"
    for way in (published.url, "--extractor.weights PATH", published.variable, f"copy the file to {cache}"):
        assert way in str(caught.value)


def test_a_given_file_that_is_missing_is_not_replaced_by_another(
    published: PublishedWeights, tmp_path: Path, monkeypatch
) -> None:
    with pytest.raises(FileNotFoundError, match=rf"no {published.network} weights at .*absent\.pth, which was given"):
        find_weights(published, tmp_path / "absent.pth")
    monkeypatch.setenv(published.variable, str(tmp_path / "gone.pth"))
    with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
        find_weights(published, None)


def test_a_download_of_another_hash_is_not_kept(published: PublishedWeights, tmp_path: Path, monkeypatch) -> None:
    """torch compares the hash before it renames; here with a file in place of the address."""
    (tmp_path / "served.pth").write_bytes(b"something else")
    served = weights.download_url_to_file
    monkeypatch.setattr(
        weights,
        "download_url_to_file",
        lambda url, target, **given: served((tmp_path / "served.pth").as_uri(), target, progress=False, **given),
    )
    with pytest.raises(FileNotFoundError, match="could not be downloaded .invalid hash value"):
        find_weights(published, None)
    assert not list((tmp_path / "hub" / "checkpoints").iterdir())


def test_half_precision_files_are_computed_with_in_float32(published: PublishedWeights, tmp_path: Path) -> None:
    linear = nn.Linear(2, 3)
    torch.save(linear.half().state_dict(), tmp_path / "half.pth")
    with torch.device("meta"):
        loaded = nn.Linear(2, 3)
    load_weights(loaded, tmp_path / "half.pth", published)
    assert loaded.weight.dtype == torch.float32
    assert torch.equal(loaded.weight, linear.weight.float())
