"""One file a method: run it and it trains, evaluates and exports."""

import os

# Set before TensorFlow is imported: its notes on each new iterator, one an
# epoch, would bury the progress.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
