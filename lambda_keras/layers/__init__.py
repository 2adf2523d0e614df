"""Layers, written with `keras.ops`."""

from lambda_keras.layers.batch_norm import BatchNormalization
from lambda_keras.layers.lambda_layer import LambdaLayer
from lambda_keras.layers.pooling import MaxPooling2D
from lambda_keras.layers.random import Dropout
from lambda_keras.layers.random import SeedGenerator
from lambda_keras.layers.random import StochasticDepth
from lambda_keras.layers.self_attention import SelfAttention
from lambda_keras.layers.squeeze_excite import SqueezeExcite

__all__ = [
    "BatchNormalization",
    "Dropout",
    "LambdaLayer",
    "MaxPooling2D",
    "SeedGenerator",
    "SelfAttention",
    "SqueezeExcite",
    "StochasticDepth",
]
