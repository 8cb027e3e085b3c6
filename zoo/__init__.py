"""Multi-label image recognition: five published methods on Keras 3."""
