"""Where a method that looks at regions is to look.

Regions are float32 `(num_regions, 4)`: ymin xmin ymax xmax, 0 to 1 of the
image, best first. `propose` gives examples theirs, from the image alone:

edge_boxes       contours that lie wholly inside a box (Zitnick and Dollar,
                 2014), by OpenCV: pip install -e '.[proposals]'
sliding_windows  a grid of several scales and ratios, the same in every image
own              those of your own detector, from a manifest

`jitter` gives training examples, and them alone, regions around their true
boxes. How many of the true boxes a method finds is a command:

Run:    python -m zoo.data.proposals voc2007 VOCdevkit --split test
        python -m zoo.data.proposals scenes --split test --method \
            sliding_windows
"""

from zoo.data.proposals.edges import edge_boxes as edge_boxes
from zoo.data.proposals.finding import METHODS as METHODS
from zoo.data.proposals.finding import propose as propose
from zoo.data.proposals.windows import jitter as jitter
from zoo.data.proposals.windows import jittered_boxes as jittered_boxes
from zoo.data.proposals.windows import sliding_windows as sliding_windows
