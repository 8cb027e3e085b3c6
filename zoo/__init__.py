"""Multi-label image recognition: published methods on Keras 3."""

from zoo import backbones as backbones
from zoo import data as data
from zoo import layers as layers
from zoo import losses as losses
from zoo import metrics as metrics
from zoo import models as models
from zoo import preprocess as preprocess
from zoo import training as training
