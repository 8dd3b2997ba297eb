"""Published weights of the networks that measure: found in one of three ways, read, and known by their hash."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.hub import download_url_to_file, get_dir

from ...files import file_sha256

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """A file of weights that somebody else publishes, and how our users say where they have it."""

    network: str
    """What messages call the network: "Inception"."""
    number: str
    """What the Fréchet distance is called with these weights and no others: "FID"."""
    url: str
    sha256: str
    mebibytes: int
    option: str
    """Of the command line, for the file's path."""
    variable: str
    """Of the environment, for the same."""


def find_weights(published: PublishedWeights, given: Path | None) -> Path:
    """The weights' file: the given path, else the environment variable's, else torch's hub cache.

    The cache is filled by a download if need be, which is kept only if its SHA-256 is the published one.

    Raises FileNotFoundError for a given path that is missing, and for a download that fails, naming the three ways.
    """
    named = given or (Path(value) if (value := os.environ.get(published.variable)) else None)
    if named is not None:
        if not named.is_file():
            raise FileNotFoundError(
                f"there are no {published.network} weights at {named}, which was given; {_three_ways(published)}"
            )
        return named
    cached = Path(get_dir()) / "checkpoints" / published.url.rsplit("/", 1)[1]
    if not cached.is_file():
        cached.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Downloads beside the target and renames it once the hash agrees.
            download_url_to_file(published.url, str(cached), hash_prefix=published.sha256)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"the {published.network} weights could not be downloaded ({error}); {_three_ways(published)}"
            ) from error
    return cached


def load_weights(
    network: nn.Module,
    path: Path,
    published: PublishedWeights,
    *,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
) -> str:
    """Give `network` the weights in the file at `path`, in float32, and return the file's SHA-256.

    The network may have been built on the meta device. convert: from the file's tensors to the network's. Says so in
    the log if the file is not the published one.

    Raises ValueError if the file holds something else.
    """
    try:
        weights = convert(torch.load(path, map_location="cpu", weights_only=True))
        network.load_state_dict(weights, assign=True)
    except Exception as error:  # torch.load has no exception type of its own: pickle's, zipfile's, RuntimeError
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(
            f"{path} does not hold the published {published.network} weights ({reason}); get {published.url}"
        ) from error
    network.float()
    sha256 = file_sha256(path)
    if sha256 != published.sha256:
        _logger.warning(
            "%s is not the published file (SHA-256 %s): results will not be called %s", path, sha256, published.number
        )
    return sha256


def _three_ways(published: PublishedWeights) -> str:
    return (
        f"get {published.url} ({published.mebibytes} MiB) on a machine that can, and either give its path with "
        f"{published.option} PATH, or put the path into the environment variable {published.variable}, "
        f"or copy the file to {Path(get_dir()) / 'checkpoints'}"
    )
