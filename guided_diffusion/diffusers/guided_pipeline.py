"""Guided sampling of an exported model (2105.05233). diffusers loads this file; it needs torch and diffusers alone."""

import math
from collections.abc import Sequence
from itertools import accumulate, repeat
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


class GuidedPipeline(DiffusionPipeline):
    """Ancestral sampling, guided by Algorithm 1, and DDIM, guided by Algorithm 2, with the scheduler's betas."""

    _optional_components = ["classifier"]  # noqa: RUF012  # the form of diffusers

    def __init__(self, unet: Any, scheduler: Any, classifier: Any = None, id2label=None):
        """id2label: names of the classes, by label as text; not annotated, since diffusers 0.35 reads no unions."""
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, classifier=classifier)
        self.register_to_config(id2label=id2label)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | Sequence[int] | Tensor | None = None,
        *,
        batch_size: int = 1,
        classifier_scale: float = 1.0,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 250,
        eta: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
    ) -> Any:
        """`ImagePipelineOutput` of an image a label, or of `batch_size` images without labels or with one for all.

        classifier_scale: of classifier guidance. guidance_scale: of classifier-free guidance, 1 for none. eta: share of
        noise of DDIM; None: ancestral sampling. output_type: "pil", "np", or "pt" for values 0..1.
        """
        several = isinstance(class_labels, (Sequence, Tensor))
        labels: list[Any] = [*class_labels] if several else [class_labels] * batch_size
        if class_labels is not None and self.classifier is None and self.unet.config.num_class_embeds is None:
            raise ValueError("class_labels need a classifier, or a network that is conditioned on the class")
        y = None if class_labels is None else torch.tensor(labels, device=self._execution_device)
        config, betas = self.unet.config, torch.tensor(self.scheduler.config.trained_betas, dtype=torch.float64)
        shape = (len(labels), config.in_channels, config.sample_size, config.sample_size)
        dtype = torch.promote_types(self.unet.dtype, torch.float32)  # half precision is for the networks alone
        drawn: Any = {"generator": generator, "device": self._execution_device, "dtype": dtype}
        x_t = randn_tensor(shape, **drawn)
        kept = _timesteps(len(betas), num_inference_steps, strided=eta is not None)
        chain = [1.0, *(1 - betas).cumprod(0)[kept].tolist()]
        for k in getattr(self, "progress_bar")(range(len(kept), 0, -1)):  # noqa: B009  # wrongly typed in diffusers
            t = torch.full((len(x_t),), kept[k - 1], device=x_t.device)
            x0, values = self._estimate(x_t, t, y, chain[k], guidance_scale)
            score = self._score(x_t, t, y, classifier_scale)
            mean, var = self._link(x_t, x0, values, score, chain, k, eta)
            x_t = mean if k == 1 or eta == 0 else mean + var**0.5 * randn_tensor(shape, **drawn)
        images: Any = (x_t / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
        return ImagePipelineOutput(images=self.numpy_to_pil(images) if output_type == "pil" else images)

    def _estimate(self, x_t: Tensor, t: Tensor, y: Tensor | None, a: float, scale: float) -> tuple[Tensor, Tensor]:
        """The clipped estimate of x_0 at alpha_bar a, and the output's channels for the variance, if it has any."""
        null = (self.unet.config.num_class_embeds or 0) - 1
        labels = None if null < 0 else y
        predicted, values = self._output(x_t, t, labels)
        if scale != 1:
            if labels is None or len(getattr(self.config, "id2label")) != null:  # noqa: B009
                raise ValueError("guidance_scale needs class_labels, and a network with a label for no class")
            reference, _ = self._output(x_t, t, torch.full_like(labels, null))
            predicted = reference + scale * (predicted - reference)
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            predicted = a**-0.5 * x_t - (1 / a - 1) ** 0.5 * predicted
        elif kind == "v_prediction":
            predicted = a**0.5 * x_t - (1 - a) ** 0.5 * predicted
        return predicted.clamp(-1, 1) if self.scheduler.config.clip_sample else predicted, values

    def _output(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Sequence[Tensor]:
        output = self.unet(x_t.to(self.unet.dtype), t, class_labels=labels).sample
        return output.to(x_t.dtype).tensor_split([x_t.shape[1]], dim=1)

    def _score(self, x_t: Tensor, t: Tensor, y: Tensor | None, scale: float) -> Tensor | float:
        """scale * grad log p(y | x_t)."""
        if self.classifier is None or y is None or scale == 0:
            return 0.0
        with torch.enable_grad():
            x_in = x_t.detach().requires_grad_(True)
            logits = self.classifier(x_in.to(self.classifier.dtype), t).to(x_t.dtype)
            log_p = logits.log_softmax(dim=1).gather(1, y[:, None])
            return scale * torch.autograd.grad(log_p.sum(), x_in)[0]

    def _link(
        self,
        x_t: Tensor,
        x0: Tensor,
        values: Tensor,
        score: Tensor | float,
        chain: list[float],
        k: int,
        eta: float | None,
    ) -> tuple[Tensor, Tensor | float]:
        """Mean and variance of the state after the link k -> k - 1 of the chain of alpha_bar."""
        a, a_prev = chain[k], chain[k - 1]
        beta = 1 - a / a_prev
        if eta is None:
            mean = a_prev**0.5 * beta / (1 - a) * x0 + (1 - beta) ** 0.5 * (1 - a_prev) / (1 - a) * x_t
            var = self._variance(values, chain, k)
            return mean + var * score, var
        x0 = x0 + (1 - a) * a**-0.5 * score
        var = eta**2 * _posterior_variance(chain, k)
        return a_prev**0.5 * x0 + max(1 - a_prev - var, 0.0) ** 0.5 * (1 - a) ** -0.5 * (x_t - a**0.5 * x0), var

    def _variance(self, values: Tensor, chain: list[float], k: int) -> Tensor | float:
        """Variance of a link; in place of the last posterior variance, 0, that of the link before has a logarithm."""
        kind, beta = self.scheduler.config.variance_type, 1 - chain[k] / chain[k - 1]
        smallest = _posterior_variance(chain, max(k, 2))
        if kind == "learned_range":
            return ((values + 1) / 2 * math.log(beta) + (1 - values) / 2 * math.log(smallest)).exp()
        return (smallest if k > 1 else 0.0) if kind == "fixed_small" else (beta if k > 1 else smallest)


def _posterior_variance(chain: list[float], k: int) -> float:
    return (1 - chain[k] / chain[k - 1]) * (1 - chain[k - 1]) / (1 - chain[k])


def _timesteps(num_steps: int, count: int, *, strided: bool) -> list[int]:
    """`count` timesteps in a whole stride from 0 on, or spread over the chain, as published for DDIM and for DDPM."""
    if not 2 <= count <= num_steps:
        raise ValueError(f"num_inference_steps is {count}; this model takes from 2 to {num_steps}")
    stride = (num_steps - 1) / (count - 1)
    spread = [round(t) for t in accumulate(repeat(stride, count - 1), initial=0.0)]
    kept = list(range(0, num_steps, -(-num_steps // count))) if strided else spread
    if len(kept) != count:
        raise ValueError(f"num_inference_steps {count} is no whole stride of {num_steps} steps; {len(kept)} is")
    return kept
