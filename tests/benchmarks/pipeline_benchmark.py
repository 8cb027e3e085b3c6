"""Times the input pipeline against a bare decode and a plain Pillow loop.

The pictures are made by this script: photos of the size of most of COCO's,
which as JPEGs take as many bytes as COCO's do, 160 kB, since decoding time
goes by bytes; and photos of a camera. Every line is run in turns, and of each
the fastest turn counts.

Pillow's loop has one core, all else has all cores that this process may use. A
machine has hardly ever nothing else to do: so the ratios compare CPU time, that
of Pillow's loop by the number of cores, which is what the rates do on a quiet
machine. With one core (`taskset -c 0 python ...`) they are those of a core.

Run:    python tests/benchmarks/pipeline_benchmark.py
"""

import os
import pathlib
import tempfile
import time

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from zoo.data import cores, memory, pipeline
from zoo.data.example import Example

QUALITY, GRAIN = 95, 8  # 0.51 bytes a pixel; VOC 2012's photos have 0.48
IMAGE_SIZE, BATCH_SIZE = 448, 16
TURNS, SECONDS = 5, 2.0  # of each line in each turn
LIMITS = {  # line -> of which other, at least how many times as fast
    "training": ("bare decode", 0.7),
    "evaluation": ("Pillow loop", 1.5),
}


def picture(rng, height, width):
    """Draws smooth noise of several scales, a grain, and hard edges."""
    image = np.full((height, width, 3), 128.0)
    for scale in (8, 32, 128):
        coarse = rng.normal(size=(height // scale + 1, width // scale + 1, 3))
        smooth = tf.image.resize(coarse, (height, width)).numpy()
        image += 4 * scale**0.5 * smooth
    y, x = np.mgrid[:height, :width]
    for _ in range(12):
        center_y, center_x = rng.integers(height), rng.integers(width)
        radius = rng.integers(height // 24, height // 4)
        disk = (y - center_y) ** 2 + (x - center_x) ** 2 < radius**2
        image[disk] = image[disk] / 2 + rng.normal(size=3) * 60
    image += GRAIN * rng.normal(size=(height, width, 1))
    return Image.fromarray(np.uint8(np.clip(image, 0, 255)))


def examples(directory, count=256, height=480, width=640):
    """Writes the pictures, and gives an example of each."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        path = pathlib.Path(directory, f"{width}_{i}.jpg")
        picture(rng, height, width).save(path, quality=QUALITY)
        made.append(
            Example(
                image_id=str(i),
                image_path=str(path),
                targets=np.zeros(80, "float32"),
                boxes=np.zeros((0, 4), "float32"),
                box_classes=np.zeros(0, "int32"),
                box_difficult=np.zeros(0, bool),
            )
        )
    return made


def endless(made, load, batch_size):
    """Maps paths as the pipeline does, but nothing else."""
    dataset = tf.data.Dataset.from_tensor_slices([e.image_path for e in made])
    dataset = dataset.repeat().map(load, num_parallel_calls=cores.count())
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.batch(batch_size).prefetch(2).with_options(options)


def bare_decode(path):
    """Decodes as fast as TensorFlow's op does."""
    image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
    return image[0, 0]  # the whole image would not be decoded for less


def bare_operations(path):
    """What training cannot do without; batching is a copy."""
    image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
    return tf.image.resize(tf.cast(image, "float32"), (IMAGE_SIZE,) * 2)


def pillow_loop(made, batch_size):
    """Yields batches of an endless loop as one would write it by hand."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    while True:
        for i in range(0, len(made), batch_size):
            images = []
            for example in made[i : i + batch_size]:
                image = ImageOps.exif_transpose(Image.open(example.image_path))
                image = image.convert("RGB").resize(size, Image.BILINEAR)
                images.append(np.asarray(image, "float32"))
            yield np.stack(images)


def measure(batches, batch_size=BATCH_SIZE):
    """Gives what an endless iterator costs: seconds and CPU seconds an image.

    The CPU seconds are of all threads.
    """
    for _ in range(3):  # what is in the buffers is no measure
        next(batches)
    count, start, cpu_start = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() < start + SECONDS:
        next(batches)
        count += batch_size
    seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return np.array(seconds) / count


def compare(made, batch_size):
    """Prints a line for each way to load the pictures, and gives the rates."""
    evaluation = pipeline.evaluation_batches(made, IMAGE_SIZE, batch_size)
    training, randomly_augmented, mixed = (
        pipeline.training_batches(
            *(made, IMAGE_SIZE, batch_size), epochs=10**6, seed=0, **switches
        )
        for switches in ({}, {"rand_augment": 2}, {"mixup": 0.2, "cutmix": 1.0})
    )
    lines = {
        "bare decode": endless(made, bare_decode, batch_size),
        "decode, resize": endless(made, bare_operations, batch_size),
        "evaluation": evaluation.repeat(),
        "training": training,
        "MixUp, CutMix": mixed,
        "RandAugment": randomly_augmented,
    }
    costs = {name: np.full(2, np.inf) for name in ("Pillow loop", *lines)}
    for _ in range(TURNS):
        for name in costs:
            # A new iterator each time: an idle one fills its buffers.
            batches = (
                iter(lines[name])
                if name in lines
                else pillow_loop(made, batch_size)
            )
            costs[name] = np.minimum(costs[name], measure(batches, batch_size))
    rates = {  # of a quiet machine
        name: (1 if name == "Pillow loop" else cores.count()) / cpu_seconds
        for name, (_, cpu_seconds) in costs.items()
    }
    height, width = np.asarray(Image.open(made[0].image_path)).shape[:2]
    size = np.mean([os.path.getsize(example.image_path) for example in made])
    print(f"{width} x {height} pixels, {size / 1000:.0f} kB, to {IMAGE_SIZE}")
    print(f"{cores.count()} cores         images/s   CPU ms  of bare of Pillow")
    for name, (seconds, cpu_seconds) in costs.items():
        print(
            f"{name:15} {1 / seconds:8.1f} {1000 * cpu_seconds:8.2f} "
            f"{rates[name] / rates['bare decode']:8.2f} "
            f"{rates[name] / rates['Pillow loop']:8.2f}"
        )
    return rates


def end_of_a_pass(made, autotune):
    """Gives the seconds it takes to let go of an iterator at its end."""
    options = tf.data.Options()
    options.autotune.enabled = autotune
    batches = pipeline.evaluation_batches(made, IMAGE_SIZE, BATCH_SIZE)
    iterator = iter(batches.with_options(options))
    for _ in iterator:
        pass
    start = time.perf_counter()
    del iterator
    return time.perf_counter() - start


def main():
    """Prints two tables, whether the limits are met, and an epoch's end."""
    memory.keep()  # as recipes do
    with tempfile.TemporaryDirectory() as directory:
        made = examples(directory)
        rates = compare(made, BATCH_SIZE)
        for name, (other, limit) in LIMITS.items():
            mark = "met" if rates[name] >= limit * rates[other] else "MISSED"
            print(f"limit: {name} at least {limit:g} of {other}: {mark}")
        print()
        compare(examples(directory, 4, 3000, 4000), batch_size=4)
        print("\nseconds to let go of an iterator, five times, sorted")
        for name, autotune in (("as it is", False), ("autotune on", True)):
            ends = sorted(end_of_a_pass(made[:64], autotune) for _ in range(5))
            print(f"{name:15}", *(f"{end:.3f}" for end in ends))


if __name__ == "__main__":
    main()
