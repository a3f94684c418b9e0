"""Datasets: found, downloaded or regenerated, checked, and transformed for training."""

from iql_fast.data import minari
from iql_fast.data.dataset import Transitions
from iql_fast.data.resolve import LoadedData, load

__all__ = ["LoadedData", "Transitions", "load", "minari"]
