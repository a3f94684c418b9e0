"""Datasets: found, downloaded or regenerated, checked, and transformed for training."""

from iql_fast.data.dataset import Transitions
from iql_fast.data.resolve import Found, LoadedData, Search, find, is_others, load, preset_of

__all__ = ["Found", "LoadedData", "Search", "Transitions", "find", "is_others", "load", "preset_of"]
