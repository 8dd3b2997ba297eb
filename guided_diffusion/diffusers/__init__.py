"""Pipelines of Hugging Face diffusers to and from this project's models; only this package knows their names."""

from .pipeline_folder import load_diffusers, unet_weights, with_variance, write_pipeline

__all__ = ["load_diffusers", "unet_weights", "with_variance", "write_pipeline"]
