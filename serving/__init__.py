"""Client and embedded server of TensorFlow Serving's gRPC API."""
