"""Published weights of feature extractors: located or downloaded, loaded, and identified by their hash."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.hub import download_url_to_file, get_dir

from ...checkpoint import read_state_dict
from ...files import file_sha256

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """A published file of weights and the names that go with it."""

    name: str
    """Name of the network with these weights, as reports record it: "inception-2015"."""
    network: str
    """Name in messages: "Inception"."""
    number: str
    """Name of the Fréchet distance on these weights and no others: "FID"."""
    suffix: str | None
    """Ending of the names of numbers on these weights: "DINOv2" makes FD-DINOv2. None: they have names of their own."""
    url: str
    sha256: str
    mebibytes: int
    variable: str
    """Environment variable for the path of the file."""


def find_weights(published: PublishedWeights, path: Path | None) -> Path:
    """The weights' file: `path`, else the environment variable's, else torch's hub cache.

    A missing cache entry is downloaded, and kept only if its SHA-256 is the published one. A missing path or a failed
    download is a FileNotFoundError.
    """
    named = path or os.environ.get(published.variable)
    found = Path(named) if named else Path(get_dir()) / "checkpoints" / published.url.rsplit("/", 1)[1]
    if found.is_file():
        return found
    problem = f"there are no {published.network} weights at {named}, which was given"
    if not named:
        found.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Downloads beside the target and renames it once the hash agrees.
            download_url_to_file(published.url, str(found), hash_prefix=published.sha256)
            return found
        except (OSError, RuntimeError) as error:
            problem = f"the {published.network} weights could not be downloaded ({error})"
    raise FileNotFoundError(
        f"{problem}; get {published.url} ({published.mebibytes} MiB) on a machine with a network, and either give its "
        f"path with --extractor.weights PATH, or put the path into the environment variable {published.variable}, "
        f"or copy the file to {Path(get_dir()) / 'checkpoints'}"
    )


def load_weights(
    network: nn.Module,
    path: Path,
    published: PublishedWeights,
    *,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
) -> str:
    """Load the file into `network`, in float32, and return its SHA-256; log a warning if it is not the published one.

    The network may have been built on the meta device. convert: from the file's tensors to the network's. A file of
    something else is a ValueError.
    """
    try:
        weights = convert(read_state_dict(path))
        network.load_state_dict(weights, assign=True)
    except (ValueError, RuntimeError, KeyError) as error:  # KeyError: of the conversion
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
