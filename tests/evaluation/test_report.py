"""What numbers are called in print."""

import pytest

from guided_diffusion.evaluation.report import display_name


def test_only_inception_has_a_fid() -> None:
    assert display_name("frechet_distance", published="inception-2015", num_generated=50_000) == "FID"
    assert display_name("frechet_distance", published="inception-2015", num_generated=10_000) == "FID-10k"
    assert display_name("spatial_frechet_distance", published="inception-2015", num_generated=49_999) == "sFID-49999"
    assert display_name("frechet_distance", published=None, num_generated=200) == "FD-200"
    assert display_name("inception_score_std", published="inception-2015", num_generated=1000) == "IS-1k std"
    for metric in ("frechet_distance", "spatial_frechet_distance", "inception_score"):
        assert "FID" not in display_name(metric, published=None, num_generated=50_000)
    assert display_name("recall", published="inception-2015", num_generated=10) == "recall-10"
    with pytest.raises(ValueError, match="unknown metric 'fid'"):
        display_name("fid", published="inception-2015", num_generated=10)
