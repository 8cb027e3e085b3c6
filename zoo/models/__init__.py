"""Features -> logits: one method a file, read from top to bottom."""

from zoo.models.baseline import add_max_pooling as add_max_pooling
from zoo.models.baseline import baseline as baseline
from zoo.models.csra import csra as csra
from zoo.models.fan import fan as fan
from zoo.models.order_free_rnn import order_free_rnn as order_free_rnn
from zoo.models.rarl import rarl as rarl
from zoo.models.rgnn import rgnn as rgnn
