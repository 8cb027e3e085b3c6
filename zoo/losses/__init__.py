"""Losses of multi-label recognition, on logits."""

from zoo.losses.asymmetric_loss import AsymmetricLoss as AsymmetricLoss
from zoo.losses.balanced_binary_crossentropy import (
    BalancedBinaryCrossentropy as BalancedBinaryCrossentropy,
)
from zoo.losses.binary_crossentropy import (
    BinaryCrossentropy as BinaryCrossentropy,
)
from zoo.losses.class_weights import (
    class_balanced_weights as class_balanced_weights,
)
from zoo.losses.focal_loss import FocalLoss as FocalLoss
from zoo.losses.softmax_squared_error import (
    SoftmaxSquaredError as SoftmaxSquaredError,
)
