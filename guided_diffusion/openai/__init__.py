"""The published .pt files to and from this project's configs and weights; only this package knows their names."""

from .conversion import Converted, Published, convert, fingerprint, load_openai, revert

__all__ = ["Converted", "Published", "convert", "fingerprint", "load_openai", "revert"]
