"""Times training batches from shards against the same from single files.

The pictures are those of `pipeline_benchmark.py`. Both are read from the
page cache, and one by one in a random order. All lines are timed in turns; of
each the fastest turn counts. An image from a shard should take at most `LIMIT`
times the CPU time of one from a file.

Run:    python tests/benchmarks/shards_benchmark.py
"""

import os
import pathlib
import tempfile

import numpy as np
from pipeline_benchmark import (
    BATCH_SIZE,
    IMAGE_SIZE,
    TURNS,
    examples,
    measure,
)

from zoo.data import pipeline, shards
from zoo.data.example import Dataset

LIMIT = 1.1


def main():
    """Prints a line for each: rate, CPU time of an image, ratio."""
    with tempfile.TemporaryDirectory() as directory:
        made = examples(directory)
        folder = pathlib.Path(directory, "shards")
        classes = tuple(map(str, range(80)))
        data = Dataset(made, classes)
        shards.write(folder, "benchmark", {"train": data}, shard_megabytes=10)
        lines = {
            "files": made,
            "shards": shards.read(folder, "train").examples,
        }
        costs = {name: np.full(2, np.inf) for name in lines}
        for _ in range(TURNS):
            for name, listed in lines.items():
                batches = pipeline.training_batches(
                    *(listed, IMAGE_SIZE, BATCH_SIZE), epochs=10**6, seed=0
                )
                cost = measure(iter(batches))
                costs[name] = np.minimum(costs[name], cost)
    print(f"{os.cpu_count()} cores  images/s  CPU ms  of files: rate  CPU time")
    for name, (seconds, cpu_seconds) in costs.items():
        ratio, cpu_ratio = costs[name] / costs["files"]
        print(
            f"{name:8} {1 / seconds:8.0f} {1000 * cpu_seconds:7.2f} "
            f"{1 / ratio:15.2f} {cpu_ratio:9.2f}"
        )
    mark = "met" if cpu_ratio <= LIMIT else "MISSED"
    print(f"limit: shards at most {LIMIT:g} times the CPU time: {mark}")


if __name__ == "__main__":
    main()
