r"""A data set in few large files, which are copied and found sooner than many.

Run:    python -m zoo.data.shards --dataset voc2007 --data_dir VOCdevkit \
            --output_dir shards/voc2007
        python -m zoo.data.shards --dataset coco2014 --data_dir coco \
            --output_dir shards/coco640 --largest_side 640
        python recipes/train_csra.py --dataset voc2007 --data_dir shards/voc2007
        python -m zoo.data.shards --dataset voc2007 --data_dir VOCdevkit \
            --output_dir shards/regions --edge_boxes 300
        python recipes/train_rgnn.py --dataset voc2007 \
            --data_dir shards/regions --proposals own

A folder of shards stands for the data set everywhere: targets, boxes, order
and, without `--largest_side`, pixels are the same. Training reads its images
one by one, in the order of the seed, as it does from single files: a disk that
is slow at that stays so.

<split>-00000-of-00016.tfrecord    the examples, a record each
shards.json                        what is in them; written last
unfinished.json                    in its place until then

A record is a `tf.train.Example`, so `tf.data.TFRecordDataset` reads it, too:

image          bytes: JPEG, PNG or WebP; empty where the record before it is of
               the same image
image_file     bytes: name of the image's file, the same for all its examples
image_id       bytes
targets        floats, `num_classes`: 1 present, 0 absent, -1 unknown
boxes          floats, 4 a box: ymin xmin ymax xmax, 0 to 1 of the image
box_classes    ints, one a box: indices of `classes` in shards.json
box_difficult  ints, one a box: 1 where it is hard to recognise
crop           floats, 4: ymin xmin ymax xmax, the part of the image that the
               example is of; none for the whole
size           ints, 2: height and width in pixels; none where not known
regions        floats, 4 a region, best first; not there where the data set
               has none and `--edge_boxes` found none

Images with `--largest_side`: a larger one is turned upright and resized by
Pillow's Lanczos filter, then stored as a JPEG of quality 95, or as a PNG if it
was one. All others stay byte for byte.
"""

from zoo.data.shards.reading import are_in as are_in
from zoo.data.shards.reading import read as read
from zoo.data.shards.reading import splits as splits
from zoo.data.shards.writing import write as write
