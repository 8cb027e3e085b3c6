"""The names that the export, the server and the client agree on.

A version of a model is a folder `<base path>/<number>` in TensorFlow's
SavedModel format. Every model answers three signatures; the first axis of
every input and output is the batch, except for `labels`:

| signature         | in            | out                                   |
|-------------------|---------------|---------------------------------------|
| `serving_default` | `image_bytes` | `probabilities`, `top_labels`,        |
|                   |               | `top_probabilities`                   |
| `image`           | `image`       | `probabilities`                       |
| `labels`          | nothing       | `labels`                              |

The first two also give `sequence_labels` and `sequence_probabilities` where
the model itself decides which labels an image has, as Order-Free RNN does.

A model that looks at regions of an image, as RGNN does, lays a grid of them
itself. Its fourth signature, `regions`, takes `image_bytes` and `regions`, and
gives what `serving_default` gives. It wants exactly the number of rows that its
metadata tells, where that is not -1.

This file imports nothing, so that the client installs without the models and
the models without the client.
"""

# Signatures.
SERVING_DEFAULT = "serving_default"
IMAGE_SIGNATURE = "image"
LABELS_SIGNATURE = "labels"
REGIONS_SIGNATURE = "regions"

# Inputs.
IMAGE_BYTES = "image_bytes"  # string (batch,): encoded JPEG, PNG or WebP
IMAGE = "image"  # float32 (batch, height, width, 3), RGB, 0 to 255
# float32 (batch, num_regions, 4): ymin xmin ymax xmax, 0 to 1 of the image. A
# row of zeros is padding.
REGIONS = "regions"

# Outputs.
PROBABILITIES = "probabilities"  # float32 (batch, num_classes)
TOP_LABELS = "top_labels"  # string (batch, k), most probable first
TOP_PROBABILITIES = "top_probabilities"  # float32 (batch, k), sorted
LABELS = "labels"  # string (num_classes,), in class order
# In the order in which the model found them; "" and 0 after the last.
SEQUENCE_LABELS = "sequence_labels"  # string (batch, max_labels)
SEQUENCE_PROBABILITIES = "sequence_probabilities"  # float32 (batch, max_labels)

# Files inside an exported version. The first name is TensorFlow Serving's.
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
CARD_FILE = "assets.extra/card.json"
LABELS_FILE = "assets/labels.txt"

# The largest gRPC message that either side accepts unless told otherwise.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
