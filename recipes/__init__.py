"""One file a method: run it and it trains, evaluates and exports."""

import os

# Both are set before TensorFlow is imported. Its notes on each new iterator,
# one an epoch, would bury the progress.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# On a CPU without AVX-512 TensorFlow leaves oneDNN out, which computes the
# gradients of small convolutions in half the time.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
