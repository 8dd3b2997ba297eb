"""The table of shipped guides, and the loading of a user's own by its name.

A row of `GUIDES` is a factory: a function of the guided model, and of options as keyword arguments, that returns a
`Guide`. The check of the options' names, their record in the manifest, and the trial before a run follow from the row.
Of options that name files, `Guide.record` has the hashes that the manifest records in place of the paths.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from classifiers.trained_model import DISCRIMINATOR_CLASSES, load_classifier

from ..data.formats.storage import NO_LABEL
from ..data.pictures import read_mask
from ..diffusion.chain import DiffusionChain, Step
from ..diffusion.images import from_uint8
from ..diffusion.model import DiffusionModel
from ..own_code import frozen, imported, qualified_name, weights_sha256
from .compatibility import check_noise
from .discriminator import log_odds
from .function import Guide, check_guide, check_options
from .measurement import RULES, Operator, RuleName, average_pooling, gaussian_blur, known_pixels
from .target_guides import attributes, regression

GuideFactory = Callable[..., Guide]


def load_guide(name: str, options: Mapping[str, Any], *, model: DiffusionModel) -> Guide:
    """The guide that `GuidanceConfig.function` names, with its options, on the model's device.

    Raises:
        FileNotFoundError: a file that an option names is not there.
        ValueError: another name, code that fails, or options that it does not take.
    """
    if name in GUIDES:
        factory = partial(GUIDES[name], model)
        check_options(factory, options, name=f"guidance.function {name}")
        given = inspect.signature(factory).bind(**options)
        for option, value in options.items():  # of YAML, in which 2024 is a number
            kind = given.signature.parameters[option].annotation
            if kind in (str, str | None) and not isinstance(value, kind):
                raise ValueError(f"{option} of guidance.function {name} is text; got {value}; put it in quotes")
        given.apply_defaults()
        guide = factory(**options)
        return replace(guide, name=name, record={"options": {**given.kwargs, **guide.record}})
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"there is no guidance.function {name}; give MODULE:NAME of your own, or {', '.join(GUIDES)}")
    try:
        found = imported(module, attribute)
    except Exception as error:  # whatever a user's own code raises
        raise ValueError(
            f"--guidance.function {name} gives no function ({type(error).__name__}: {error}); MODULE must be installed "
            f"or lie in this directory, and NAME be a function of images, a network, or a class of one"
        ) from error
    return guide_of(found, options, name=name, device=model.device)


def guide_of(
    code: Callable[..., Any], options: Mapping[str, Any] | None = None, *, name: str = "", device: torch.device | str
) -> Guide:
    """The guide made of a function, a network, the class of one, or a `Guide` of these.

    A class is called with the options. A network is copied, frozen and put into evaluation mode.

    Raises:
        ValueError: no function at all, options that it does not take, or a class that fails.
    """
    guide = code if isinstance(code, Guide) else Guide(code)
    function, given = guide.function, {**guide.options, **(options or {})}
    name = name or guide.name or qualified_name(function)
    if not callable(function):
        raise ValueError(f"guidance.function {name} is {type(function).__name__}, and no function of images")
    check_options(function, given, name=f"guidance.function {name}")
    record: dict[str, Any] = {"options": given} if given else {}
    if isinstance(function, type):
        try:
            function, given = function(**given), {}
        except Exception as error:  # whatever a user's own code raises
            raise ValueError(f"guidance.function {name} fails: {type(error).__name__}: {error}") from error
    if isinstance(function, nn.Module):
        function = frozen(function, device)
        record["sha256"] = weights_sha256(function)
    return Guide(function, guide.place, given, name, {**record, **guide.record})


def tried(guide: Guide, model: DiffusionModel, levels: DiffusionChain) -> Guide:
    """`guide`, tried by `check_guide` on noise in the images' range, at both ends of a sampler's levels.

    Raises:
        ValueError: as `check_guide`, or a gradient of 0 at both ends.
    """
    shape, names, device = model.image_shape, model.config.class_names, model.device
    noise = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    contrast, black = (torch.tensor(values).reshape(4, 1, 1, 1) for values in ([1, 1, 0.1, 2], [-1, 0, 0.4, -1]))
    images = (black + contrast * noise).to(device)
    y = torch.arange(4, device=device) % len(names) if names else torch.full((4,), NO_LABEL, device=device)
    guides = [check_guide(guide, levels.at(k, like=images), images, y) for k in (len(levels) - 1, 0)]
    if not any(guides):
        raise ValueError(
            f"{guide.name} guides nothing: its gradient is 0 at all images tried; look for steps and rounding"
        )
    return guide


def measurement(
    model: DiffusionModel,
    *,
    images: str,
    blur: float | None = None,
    pool: int | None = None,
    mask: str | None = None,
    rule: RuleName = "pseudoinverse",
    noise: float = 0.05,
    gradient: str = "x_t",
) -> Guide:
    """Measurements y = A x_0 + noise: sample i is guided to image i mod N of the N images at `images`.

    The operator A is one of three. blur: a Gaussian of this standard deviation, pixels. pool: means of squares of this
    many pixels a side. mask: a picture whose black part is known.
    noise: standard deviation of the measurements' noise, for images in [-1, 1]; dps does not use it.
    gradient: x_t, through the network, or x_0, without its backward pass.

    Raises:
        FileNotFoundError: nothing at `images` or `mask`.
        ValueError: options that do not fit together, or images that do not fit the model.
    """
    for option, value, known in (("rule", rule, tuple(RULES)), ("gradient", gradient, ("x_t", "x_0"))):
        if value not in known:
            raise ValueError(f"{option} of guidance.function measurement is {' or '.join(known)}; got {value}")
    _check_positive("noise", noise)
    measure = _operator(model.image_shape[1], {"blur": blur, "pool": pool, "mask": mask})
    stored = open_measured(Path(images), measure, channels=model.image_shape[0])
    record = {"images": sha256(stored.numpy().data).hexdigest()}
    record |= {} if mask is None else {"mask": sha256(measure.mask.numpy().data).hexdigest()}
    measure = Operator(measure.rows.float().to(model.device), measure.mask.to(model.device))
    y = from_uint8(stored).to(model.device) * measure.mask

    def log_density(x_0: Tensor, step: Step, ids: Tensor) -> Tensor:
        return RULES[rule](measure, y[ids % len(y)] - measure(x_0), noise, step)

    return Guide(log_density, "network" if gradient == "x_t" else "x_0", record=record)


def discriminator(model: DiffusionModel, *, run: str) -> Guide:
    """The log-odds of real against generated images (2211.17091), by a discriminator of the model's own samples.

    run: its run directory or checkpoint.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: a classifier of other classes, noise or images.
    """
    classifier = load_classifier(Path(run), device=model.device)
    if classifier.class_names != DISCRIMINATOR_CLASSES:
        raise ValueError(
            f"{classifier.name} is no discriminator: its classes are {', '.join(classifier.class_names)}, not "
            f"{' and '.join(DISCRIMINATOR_CLASSES)}; train one on a folder that holds folders of these names"
        )
    check_noise(model.config, classifier, run=model.checkpoint.path)
    return Guide(log_odds(classifier.log_prob, of=1, against=0), "x_t", record={"run": classifier.sha256})


def open_measured(path: Path, operator: Operator, *, channels: int) -> Tensor:
    """The measurements (N, C, M, M) uint8 at a path, pictures or stored arrays of the side M."""
    from ..data.image_set import open_image_set  # with Pillow, which no help needs

    images = open_image_set(path, channels=channels)
    side, size = operator.rows.shape
    if images.shape[:2] != (side, side):
        height, width = images.shape[:2]
        raise ValueError(
            f"{path} holds images of {width}x{height} pixels, but measurements of this operator have {side}x{side}; "
            f"give those, measured at the model's {size} pixels"
        )
    return images.read(range(len(images)))


def _operator(size: int, options: Mapping[str, Any]) -> Operator:
    """The operator of images of `size` pixels a side that the one option given names."""
    given = {name: value for name, value in options.items() if value is not None}
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise ValueError(f"guidance.function measurement takes one of the options {', '.join(options)}; got {found}")
    ((name, value),) = given.items()
    if name == "mask":
        return known_pixels(~read_mask(Path(value), size=size)[0, 0])
    _check_positive(name, value)
    if name == "blur":
        return gaussian_blur(size, value)
    if not isinstance(value, int) or size % value:
        raise ValueError(f"pool of guidance.function measurement must divide the {size} pixels of images; got {value}")
    return average_pooling(size, value)


def _check_positive(option: str, value: Any) -> None:  # of YAML
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{option} of guidance.function measurement is a number above 0; got {value}")


GUIDES: Mapping[str, GuideFactory] = {
    "attributes": attributes, "discriminator": discriminator, "measurement": measurement, "regression": regression,
}  # fmt: skip
"""Names that `GuidanceConfig.function` takes besides MODULE:NAME."""
