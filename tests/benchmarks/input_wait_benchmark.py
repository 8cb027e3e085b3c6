"""Tells how much of a training step is waiting for its input.

`fit` runs as in a recipe, with the pipeline's batches, over a
`MirroredStrategy`; only that its train function takes the next batch outside
of the graph, to time it. On a CPU the pipeline and the step share the cores:
then a step that does not wait is still the slower for it.

Run:    python tests/benchmarks/input_wait_benchmark.py
"""

import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
from pipeline_benchmark import examples

from zoo import backbones, losses, training
from zoo.data import memory, pipeline
from zoo.models.csra import csra

LIMIT = 0.05  # of a step's time
EPOCHS = 3  # the first one, in which the graph is traced, does not count
LINES = {  # name -> backbone, image's sides, image size, batch, steps, pipeline
    "tiny at 128": (
        *(backbones.tiny, (128, 128), 128, 16, 100),
        {"crop_area": 1.0, "shift": 0.1},  # as on `scenes`
    ),
    "tiny at 448": (backbones.tiny, (480, 640), 448, 16, 10, {}),
    "resnet101 at 448": (backbones.resnet101, (480, 640), 448, 4, 3, {}),
}


class Clock:
    """Takes the place of a model's train function, and times its two halves.

    Args:
        model: compiled `keras.Model`.
    """

    def __init__(self, model):
        self.strategy = model.distribute_strategy
        self.steps = []  # seconds to wait, and to compute
        self.step = tf.function(
            lambda batch: self.strategy.run(model.train_step, args=(batch,))
        )

    def __call__(self, iterator):
        start = time.perf_counter()
        batch = next(iterator)
        waited = time.perf_counter()
        logs = self.step(batch)
        logs = {name: float(log) for name, log in logs.items()}
        self.steps.append((waited - start, time.perf_counter() - waited))
        return logs


def measure(directory, backbone, sides, image_size, batch_size, steps, changes):
    """Gives the seconds of all steps but those of the first epoch.

    Returns:
        Array of shape `(steps, 2)`: waiting, and computing.
    """
    made = examples(directory, min(steps * batch_size, 256), *sides)
    made *= -(-steps * batch_size // len(made))
    keras.utils.set_random_seed(0)
    with training.strategy("one").scope():
        model = csra(backbone(image_size), num_classes=80)
        model.compile("sgd", losses.BinaryCrossentropy(), jit_compile=False)
    clock = model.train_function = Clock(model)
    batches = pipeline.training_batches(
        made, image_size, batch_size, EPOCHS, seed=0, **changes
    )
    model.fit(
        batches,
        steps_per_epoch=steps,
        epochs=EPOCHS,
        shuffle=False,  # the pipeline does
        verbose=0,
    )
    return np.array(clock.steps[steps:])


def main():
    """Prints a line for each model."""
    memory.keep()  # as recipes do
    print("                  ms a step: waiting  computing  share  median")
    for name, line in LINES.items():
        with tempfile.TemporaryDirectory() as directory:
            seconds = measure(directory, *line)
        waiting, computing = 1000 * seconds.mean(axis=0)
        share = waiting / (waiting + computing)
        median = np.median(seconds[:, 0] / seconds.sum(axis=1))
        mark = "" if share < LIMIT else "  !"
        print(
            f"{name:17} {waiting:17.2f} {computing:10.1f} {share:6.1%} "
            f"{median:7.1%}{mark}",
            flush=True,
        )
    print(f"limit: {LIMIT:.0%} of a step; ! marks a miss")


if __name__ == "__main__":
    main()
