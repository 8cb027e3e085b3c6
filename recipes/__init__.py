"""One file a method: run it and it trains, evaluates and exports."""

import os

# Both are set before TensorFlow is imported. Its notes on each new iterator,
# one an epoch, would bury the progress.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# TensorFlow leaves oneDNN out on a CPU without instructions for neural
# networks, where it also halves the time of small convolutions' gradients.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
