"""Files -> batches: readers, the built-in data set, the input pipeline."""

from zoo.data import augment as augment
from zoo.data import boxes as boxes
from zoo.data import coco as coco
from zoo.data import encoded as encoded
from zoo.data import example as example
from zoo.data import manifest as manifest
from zoo.data import nus_wide as nus_wide
from zoo.data import pipeline as pipeline
from zoo.data import proposals as proposals
from zoo.data import scenes as scenes
from zoo.data import shards as shards
from zoo.data import sources as sources
from zoo.data import voc as voc
from zoo.data import wider as wider
