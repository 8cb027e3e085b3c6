"""Keras layers, one a file, each named as its class."""

from zoo.layers.residual_attention import ResidualAttention as ResidualAttention
