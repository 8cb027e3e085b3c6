"""Own data: a CSV file, a JSON Lines file, or one folder a class.

A CSV file names its columns in the first line; commas separate them. In JSON
Lines, every line is an object with the same fields, and its lists may be
written as lists:

    image,labels,unknown,split,boxes
    cats/001.jpg,cat|sofa,dog,train,cat xmin=0.1 ymin=0.2 xmax=0.5 ymax=0.9
    street.png,,,train,

    {"image": "cats/001.jpg", "labels": ["cat", "sofa"], "split": "train",
     "boxes": [{"label": "cat", "xmin": 0.1, ...}]}     # on one line

image    path of a JPEG, PNG or WebP file, relative to the manifest's folder,
         with forward slashes. An image has one line.
labels   what is present, separated by `|`; empty: none of the classes.
unknown  optional. What may or may not be present: its target is -1.
split    optional. train, val or test; without this field all is train. Of
         val and test, some images must have labels, to measure with.
boxes    optional, separated by `|`: a label of the line, then the sides in
         any order as shares, 0 to 1, of the image's width and height. Boxes
         of a label that is unknown count as difficult.
regions  optional, separated by `|`: where your own detector says that a method
         is to look, as sides `xmin=0.1 ymin=0.2 xmax=0.5 ymax=0.9` without a
         label, best first. With a `score=0.8` each, the highest comes first.
         None are given where the cell is empty: the image is then not looked
         at. Without this field there are other ways, see `zoo.data.proposals`.

Fields that begin with `_` are yours; any other is refused, since it may be
one of these misspelt. The text is UTF-8. Space around names is cut off.

Folders need no file: `root/<class>/*.jpg`, or `root/<split>/<class>/*.jpg`
where the folders at the top are `train`, `val` and `test` or some of them,
and no others.
Each image has the one label that its folder names. Hidden files and files
that are no image by their name are passed over.

Run:    python -m zoo.data.manifest check photos.csv
"""

from zoo.data.manifest.checking import Report as Report
from zoo.data.manifest.checking import check as check
from zoo.data.manifest.checking import copies as copies
from zoo.data.manifest.reading import read as read
from zoo.data.manifest.reading import splits as splits
