"""Keras and TensorFlow, both ways: residual networks to compile and fit there, and classifiers to and fro."""

from resvision.keras.build import residual_block, resnet
from resvision.keras.convert import from_keras, load, save, to_keras

__all__ = ["from_keras", "load", "residual_block", "resnet", "save", "to_keras"]
