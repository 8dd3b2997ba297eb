"""What numbers are called in print."""

import pytest

from guided_diffusion.evaluation.report import display_name


def test_only_inception_has_a_fid() -> None:
    assert display_name("frechet_distance", is_inception=True, num_generated=50_000) == "FID"
    assert display_name("frechet_distance", is_inception=True, num_generated=10_000) == "FID-10k"
    assert display_name("spatial_frechet_distance", is_inception=True, num_generated=49_999) == "sFID-49999"
    assert display_name("frechet_distance", is_inception=False, num_generated=200) == "FD-200"
    assert display_name("inception_score_std", is_inception=True, num_generated=1000) == "IS-1k std"
    for metric in ("frechet_distance", "spatial_frechet_distance", "inception_score"):
        assert "FID" not in display_name(metric, is_inception=False, num_generated=50_000)
    assert display_name("recall", is_inception=True, num_generated=10) == "recall"
    with pytest.raises(ValueError, match="unknown metric 'fid'"):
        display_name("fid", is_inception=True, num_generated=10)
