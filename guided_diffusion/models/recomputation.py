"""Activation checkpointing: what training computes again in the backward pass rather than keeps."""

from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,  # pyright: ignore[reportUnknownVariableType]  # untyped in part
    create_selective_checkpoint_contexts,  # pyright: ignore[reportUnknownVariableType]  # likewise
)

Recomputed = tuple[int, ...] | Literal["pointwise"]
"""Levels with feature maps of these sides, pixels, or all operations but convolutions, matrix products, attention."""

_aten: Any = torch.ops.aten
_COSTLY = {
    _aten.convolution, _aten.mm, _aten.addmm, _aten.bmm, _aten._scaled_dot_product_flash_attention,
    _aten._scaled_dot_product_efficient_attention, _aten._scaled_dot_product_cudnn_attention,
    _aten._scaled_dot_product_flash_attention_for_cpu,
}  # fmt: skip
"""Operations whose results are kept where the others, limited by memory traffic, are computed again."""


def _policy(_context: Any, operation: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    is_costly = getattr(operation, "overloadpacket", None) in _COSTLY
    return CheckpointPolicy.MUST_SAVE if is_costly else CheckpointPolicy.PREFER_RECOMPUTE


class Recomputable(nn.Module):
    """A part of a network that can be computed again."""

    recomputed: Literal["nothing", "pointwise", "everything"] = "nothing"

    def recomputable(self, *inputs: Tensor) -> Tensor:
        """The part's output, for which less is kept for the backward pass of training."""
        if self.recomputed == "nothing" or not (self.training and torch.is_grad_enabled()):
            return self(*inputs)
        is_selective = self.recomputed == "pointwise"
        how: Any = {"context_fn": partial(create_selective_checkpoint_contexts, _policy)} if is_selective else {}
        return cast(Tensor, checkpoint(self, *inputs, use_reentrant=False, **how))
