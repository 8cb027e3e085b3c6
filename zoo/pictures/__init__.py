"""Pictures of a model's answers: where it looked, how good, how wrong."""

from zoo.pictures.answers import ap_bars as ap_bars
from zoo.pictures.answers import precision_recall as precision_recall
from zoo.pictures.answers import worst_errors as worst_errors
from zoo.pictures.answers import worst_images as worst_images
from zoo.pictures.canvas import pixels as pixels
from zoo.pictures.comparison import differences as differences
from zoo.pictures.maps import evidence as evidence
from zoo.pictures.maps import sequence as sequence
from zoo.pictures.regions import gates as gates
from zoo.pictures.regions import glimpses as glimpses
