"""Times the region layers and measures what memory they take, on the CPU.

    python tests/benchmarks/region_benchmark.py    # 5 GiB, two minutes

First the crop of 300 regions: TensorFlow's op beside the gathers that stand in
for it on other backends and under XLA. Then ROI pooling of 50 small regions of
16 images, as on `tiny`, in chunks and all at once, with its gradient: what the
layer goes by to choose. Then RGNN's widest part, ROI pooling to
7 x 7 and VGG's FC6 for 300 regions of four images, trained by Adam: in chunks
of regions, as `RoiPooling` does it, and all at once. The peak is that of a
process of its own, with TensorFlow in it. A "!" marks a limit that is missed.
"""

import multiprocessing
import resource
import time

import keras
import numpy as np
import tensorflow as tf

from zoo.layers import RoiCropAndResize, RoiPooling, roi_crop_and_resize

NUM_REGIONS, SIZE, CHANNELS = 300, 7, 512
BATCH, SIDE = 4, 28  # images, and pixels of VGG-16's P4 at 448
LIMIT = 4  # GiB
REPEATS = 5


class AllAtOnce(keras.layers.Layer):
    """Does what `RoiPooling` does, without its chunks."""

    def __init__(self):
        super().__init__()
        self.crop = RoiCropAndResize(2 * SIZE)

    def call(self, features, regions):
        """Gives `(batch, num_regions, SIZE, SIZE, CHANNELS)`."""
        crops = self.crop(features, regions)
        flat = tf.reshape(crops, (-1, 2 * SIZE, 2 * SIZE, CHANNELS))
        shape = (len(features), -1, SIZE, SIZE, CHANNELS)
        return tf.reshape(tf.nn.max_pool2d(flat, 2, 2, "VALID"), shape)


WAYS = {"in chunks": lambda: RoiPooling(SIZE), "all at once": AllAtOnce}


def inputs(batch, side):
    """Gives features and regions."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(batch, side, side, CHANNELS))
    corners = rng.uniform(0, 1, (batch, NUM_REGIONS, 2, 2))
    regions = np.sort(corners, axis=2).reshape(batch, NUM_REGIONS, 4)
    return [tf.constant(x, "float32") for x in (features, regions)]


def fastest(function, repeats=REPEATS):
    """Gives the seconds of the fastest call."""
    seconds = []
    for _ in range(repeats + 1):  # the first one traces
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def crops():
    """Prints the seconds of both ways to crop."""
    arguments = inputs(batch=1, side=32)
    layer = RoiCropAndResize(SIZE)
    for name, has_op in (("op", True), ("gathers", False)):
        roi_crop_and_resize._has_op = lambda has_op=has_op: has_op
        forward = tf.function(lambda *x: layer(*x))

        @tf.function
        def gradient(features, regions):
            with tf.GradientTape() as tape:
                tape.watch(features)
                loss = tf.reduce_sum(layer(features, regions) ** 2)
            return tape.gradient(loss, features)

        milliseconds = [
            1e3 * fastest(lambda f=f: f(*arguments))
            for f in (forward, gradient)
        ]
        print(
            "crop by {:8} forward {:6.1f} ms, with gradient {:6.1f} ms".format(
                name, *milliseconds
            ),
            flush=True,
        )


def small_crops():
    """Prints the seconds of ROI pooling whose crops are small."""
    features = tf.random.normal((16, 4, 4, 160))
    corners = tf.sort(tf.random.uniform((16, 50, 2, 2)), axis=2)
    regions = tf.reshape(corners, (16, 50, 4))
    layer = RoiPooling(2)
    chosen = RoiPooling._LARGE_CROP
    for way, largest in (("in chunks", 0), ("all at once", chosen)):
        RoiPooling._LARGE_CROP = largest

        @tf.function
        def gradient(features, regions):
            with tf.GradientTape() as tape:
                tape.watch(features)
                loss = tf.reduce_sum(layer(features, regions) ** 2)
            return tape.gradient(loss, features)

        seconds = fastest(lambda f=gradient: f(features, regions))
        print(f"{way:11} of small crops {1e3 * seconds:6.1f} ms", flush=True)


def pooling(way, training):
    """Prints the seconds and the peak of ROI pooling and FC6."""
    features, regions = inputs(BATCH, SIDE)
    pool = WAYS[way]()
    fc6 = keras.layers.Dense(4096, "relu")
    fc6.build((None, SIZE * SIZE * CHANNELS))
    optimizer = keras.optimizers.Adam(1e-4)

    def forward():
        pooled = pool(features, regions)
        return fc6(tf.reshape(pooled, (-1, SIZE * SIZE * CHANNELS)))

    def step():
        weights = fc6.trainable_variables
        with tf.GradientTape() as tape:
            tape.watch(features)
            loss = tf.reduce_mean(forward() ** 2)
        slope, slopes = tape.gradient(loss, [features, weights])
        optimizer.apply(slopes, weights)
        return slope

    if training:
        optimizer.build(fc6.trainable_variables)
    seconds = fastest(tf.function(step if training else forward), repeats=2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    mark = "" if peak < LIMIT or way != "in chunks" else " !"
    name = "training" if training else "forward"
    print(
        f"{way:11} {name:8} {seconds:6.2f} s, peak {peak:.2f} GiB (limit "
        f"{LIMIT}){mark}",
        flush=True,
    )


def main():
    """Prints the comparisons."""
    crops()
    small_crops()
    for training in (False, True):
        for way in WAYS:
            # A process's peak never falls: each number has one of its own.
            process = multiprocessing.get_context("spawn").Process(
                target=pooling, args=(way, training)
            )
            process.start()
            process.join()


if __name__ == "__main__":
    main()
