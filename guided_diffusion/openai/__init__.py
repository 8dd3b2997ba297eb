"""The published .pt files to and from this project's configs and weights; only this package knows their names."""

from .layout import Converted, Published, convert, revert
from .published_file import load_openai
from .releases import fingerprint

__all__ = ["Converted", "Published", "convert", "fingerprint", "load_openai", "revert"]
