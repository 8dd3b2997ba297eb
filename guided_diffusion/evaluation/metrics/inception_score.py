"""Inception Score (Salimans et al. 2016)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..config import EvaluationConfig
from ..measure import MeasuredSet
from ..report import Report
from .metric import Metric, Number, Result, check_rows, deviation


def inception_score(probabilities: Tensor, *, split_size: int = 5000) -> tuple[float, float]:
    """exp(mean KL(p(y|x) || p(y))): its mean over consecutive splits, and standard deviation.

    probabilities: (N, C), rows summing to one, else a ValueError. A split holds `split_size` rows, the last may be
    short and counts the same, as published. Depends on the order of the rows if there is more than one split.
    """
    check_rows(probabilities, "probabilities")
    if split_size < 1:
        raise ValueError(f"split_size must be positive, got {split_size}")
    sums = probabilities.sum(dim=1, dtype=torch.float64)  # double() would take 400 MB for Inception's of 50,000 images
    if probabilities.min() < 0 or (sums - 1).abs().max() > 1e-3:
        raise ValueError(
            f"rows of probabilities must sum to one, got {sums.min():.6g}..{sums.max():.6g}; pass a softmax, not logits"
        )
    scores: list[Tensor] = []
    for split in probabilities.split(split_size):
        p = split.double()
        marginal = p.mean(dim=0, keepdim=True)
        # xlogy: a class of probability zero adds nothing, where p log p would give nan.
        scores.append((torch.xlogy(p, p) - torch.xlogy(p, marginal)).sum(dim=1).mean().exp())
    return float(torch.stack(scores).mean()), float(torch.stack(scores).std(correction=0))


def _compute(generated: MeasuredSet, real: MeasuredSet, config: EvaluationConfig) -> Result:
    rows = generated.probabilities
    assert rows is not None
    if generated.order == "shuffled":
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).to(rows.device)]
    mean, std = inception_score(rows, split_size=config.split_size)
    return Result(values={"inception_score": mean, "inception_score_std": std})


def _warnings(generated: MeasuredSet, real: MeasuredSet, config: EvaluationConfig) -> Iterator[str]:
    splits, last = divmod(generated.pooled.count or 0, config.split_size)
    if generated.probabilities is not None and splits and 0 < last < config.split_size // 2:
        yield f"the Inception Score's last split has {last} images and counts like the others, as published"


def _uncertainty(report: Report) -> str:
    if report.protocol["generated"]["num_images"] <= report.protocol["settings"]["split_size"]:
        return "one split"
    return deviation(report, "inception_score_std", over="splits")


INCEPTION_SCORE = Metric(
    numbers=(
        Number(key="inception_score", name="IS-like", inception_name="IS", is_headline=True),
        Number(key="inception_score_std", name="IS-like std", inception_name="IS std", is_deviation=True),
    ),
    looks_at="probabilities",
    compute=_compute,
    warnings=_warnings,
    uncertainty={"inception_score": _uncertainty},
    protocol={
        "generated.order": "order of the generated images",
        "settings.split_size": "Inception Score's split size",
    },
)
