"""Keras model -> SavedModel that TensorFlow Serving loads."""
