"""Weights from elsewhere, into the models and back."""

from lambda_keras.weights.conversion import save_as_timm
from lambda_keras.weights.hub import CHECKPOINTS
from lambda_keras.weights.hub import Checkpoint
from lambda_keras.weights.hub import download
from lambda_keras.weights.loading import WeightsFile
from lambda_keras.weights.loading import check_weights
from lambda_keras.weights.loading import describe_weights
from lambda_keras.weights.loading import load_weights
from lambda_keras.weights.loading import read_weights
from lambda_keras.weights.resampling import resample_table

__all__ = [
    "CHECKPOINTS",
    "Checkpoint",
    "WeightsFile",
    "check_weights",
    "describe_weights",
    "download",
    "load_weights",
    "read_weights",
    "resample_table",
    "save_as_timm",
]
