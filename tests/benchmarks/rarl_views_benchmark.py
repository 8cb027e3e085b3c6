"""Times the ten-view protocol of RARL on VGG-16, on the CPU.

Run:    python tests/benchmarks/rarl_views_benchmark.py    # 2 GiB, a minute

An image of 512 pixels goes through the backbone twice, as itself and as its
mirror image; ten separate views of 448 pixels go through it ten times, whose
convolutions take 10 * 448**2 / (2 * 512**2) = 3.8 times as long. Both look at
the same number of regions. The seconds are CPU time of an image.
"""

import time

import keras
import tensorflow as tf

from zoo.backbones import vgg16
from zoo.models import rarl
from zoo.models.rarl_views import ten_views

IMAGE_SIZE, MARGIN, NUM_CLASSES = 512, 64, 20
LEAST_RATIO = 3
REPEATS = 3


def fastest(function):
    """Gives the CPU seconds of the fastest call; the first one traces."""
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return min(seconds[1:])


def main():
    """Prints the time of either way, and how many times faster one is."""
    keras.utils.set_random_seed(0)
    model = rarl(vgg16(IMAGE_SIZE - MARGIN), NUM_CLASSES)
    views = ten_views(model, IMAGE_SIZE, MARGIN)
    one = tf.function(lambda x: model(x, training=False))
    ten = tf.function(lambda x: views(x, training=False))
    image = tf.random.uniform((1, IMAGE_SIZE, IMAGE_SIZE, 3), 0, 255)
    corner = image[:, MARGIN:, MARGIN:]

    def separate():
        for _ in range(10):
            one(corner).numpy()

    apart = fastest(separate)
    shared = fastest(lambda: ten(image).numpy())
    ratio = apart / shared
    mark = "" if ratio >= LEAST_RATIO else " !"
    print(
        f"ten forward passes {apart:.2f} s, with shared convolutions "
        f"{shared:.2f} s, {ratio:.2f} times faster (at least "
        f"{LEAST_RATIO}){mark}"
    )


if __name__ == "__main__":
    main()
