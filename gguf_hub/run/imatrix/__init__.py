"""Measuring importance matrices: what enters each product of a model while it reads a text."""

from gguf_hub.run.imatrix.measure import Measurement, measure
from gguf_hub.run.imatrix.statistics import TensorStatistics, statistics_of

__all__ = ["Measurement", "TensorStatistics", "measure", "statistics_of"]
