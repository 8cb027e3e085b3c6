"""Times Order-Free RNN on ResNet-152 at 224 pixels, as for COCO.

    python tests/benchmarks/order_free_rnn_benchmark.py

Prints what a beam of three paths costs beside one path, on the whole network,
and how many times faster an epoch is on features that were computed once.
The search takes all of its 18 steps, as no real image makes it.
"""

import pathlib
import statistics
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from zoo import backbones, feature_cache, losses
from zoo.data import pipeline
from zoo.models.order_free_rnn import (
    feature_model,
    from_features,
    order_free_rnn,
    step_model,
    with_beam_width,
)

IMAGE_SIZE, NUM_CLASSES, MAX_LABELS = 224, 80, 18
NUM_IMAGES, BATCH_SIZE = 32, 16
MOST_RATIO = 1.5  # of three paths to one


def median_seconds(functions, repeats=5):
    """Times functions in turn, since a machine's speed drifts.

    Args:
        functions: dict from name to function without arguments.
        repeats: int. Timed calls of each; one more goes before.

    Returns:
        dict from name to seconds.
    """
    times = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t[1:]) for name, t in times.items()}


def beam(model, images):
    """Prints the cost of a wide search."""
    for batch_size in (1, BATCH_SIZE):
        chosen = tf.constant(images[:batch_size])

        def searching(width, chosen=chosen):
            part = with_beam_width(model, width)
            search = tf.function(lambda x: part(x, training=False)["logits"])
            return lambda: search(chosen).numpy()

        seconds = median_seconds({1: searching(1), 3: searching(3)})
        ratio = seconds[3] / seconds[1]
        mark = "" if ratio < MOST_RATIO else " !"
        print(
            f"batch {batch_size:2}: one path {seconds[1]:.3f} s, three paths "
            f"{seconds[3]:.3f} s, ratio {ratio:.2f} (limit {MOST_RATIO}){mark}",
            flush=True,
        )


def cache(model, images, targets):
    """Prints what an epoch of the second phase takes, on either input."""
    learner = step_model(model)
    head = from_features(model, learner)
    frozen = feature_model(model)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        batches = tf.data.Dataset.from_tensor_slices((images, targets))
        features = feature_cache.load_or_compute(
            pathlib.Path(folder) / "features",
            {"benchmark": True},
            frozen.predict_on_batch,
            batches.batch(BATCH_SIZE).as_numpy_iterator(),
            NUM_IMAGES,
        )
        computed = time.perf_counter() - start
        steps = NUM_IMAGES // BATCH_SIZE

        def epoch_of(part, dataset):
            part.compile(
                keras.optimizers.Adam(3e-4),
                losses.BinaryCrossentropy(),
                jit_compile=False,
            )
            iterator = iter(dataset)

            def epoch():
                for _ in range(steps):
                    part.train_on_batch(*next(iterator))

            return epoch

        read = pipeline.cached_batches(
            features, targets, BATCH_SIZE, epochs=10**6, seed=0
        )
        seconds = median_seconds(
            {
                "images": epoch_of(learner, batches.repeat().batch(BATCH_SIZE)),
                "features": epoch_of(head, read),
            },
            repeats=3,
        )
    print(
        f"an epoch of {NUM_IMAGES} images: {seconds['images']:.2f} s on "
        f"images, {seconds['features']:.2f} s on features, "
        f"{seconds['images'] / seconds['features']:.1f} times faster; "
        f"computing the features took {computed:.2f} s, once",
        flush=True,
    )


def main():
    """Prints both comparisons."""
    keras.utils.set_random_seed(0)
    model = order_free_rnn(
        backbones.resnet152(IMAGE_SIZE),
        NUM_CLASSES,
        MAX_LABELS,
        threshold=0.0,
    )
    model.get_layer("preliminary").trainable = False
    rng = np.random.default_rng(0)
    shape = (NUM_IMAGES, IMAGE_SIZE, IMAGE_SIZE, 3)
    images = rng.uniform(0, 255, shape).astype("float32")
    targets = (rng.random((NUM_IMAGES, NUM_CLASSES)) < 0.04).astype("float32")
    beam(model, images)
    cache(model, images, targets)


if __name__ == "__main__":
    main()
