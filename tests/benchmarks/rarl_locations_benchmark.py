"""Compares places that RARL learns with others: the paper's Tables 3 and 5.

Run:    pip install -e '.[proposals]'
        python tests/benchmarks/rarl_locations_benchmark.py runs/rarl_locations

Trains RARL on the built-in scenes with learned places, random ones, proposals,
and one region around learned places, with three seeds each: an hour on two
cores. Runs that are there already are only measured, one that was killed goes
on, so the same command ends what an earlier one began.

A network that has learned places is measured with random ones in their stead,
too: what the policy is worth to the very weights that it was trained with.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np

from zoo import metrics, runs
from zoo.data import pipeline, scenes
from zoo.layers import RecurrentAttention

TRAINED = {
    "learned places": (),
    "random places": ("--locations", "random"),
    "proposals": ("--locations", "proposals"),
    "learned places, one region": ("--num_regions", "1"),
}
DRAWS = 5  # of random places, for a model that learned its own


def main():
    """Prints the mAP of every way and seed, their mean and deviation."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output_dir", type=pathlib.Path, help="of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()

    rows = {name: [] for name in TRAINED}
    instead = []
    for seed in arguments.seeds:
        for name, flags in TRAINED.items():
            folder = f"{name.replace(', ', '_').replace(' ', '_')}-seed{seed}"
            directory = arguments.output_dir / folder
            train(directory, seed, flags)
            report = json.loads((directory / runs.METRICS).read_text())
            rows[name].append(report["mAP"])
        instead.append(
            with_random_places(
                arguments.output_dir / f"learned_places-seed{seed}"
            )
        )
    rows = {
        "learned places": rows.pop("learned places"),
        "same, random when measured": instead,
        **rows,
    }
    print("\nRARL on scenes test, mAP (continuous)")
    seeds = "".join(f"{f'seed {seed}':>8}" for seed in arguments.seeds)
    print(f"  {'':28}{seeds}    mean   deviation")
    for name, values in rows.items():
        values = 100 * np.array(values)
        cells = "".join(f"{value:8.2f}" for value in values)
        deviation = values.std(ddof=1) if len(values) > 1 else 0
        print(f"  {name:28}{cells}{values.mean():8.2f}{deviation:8.2f}")


def train(directory, seed, flags):
    """Trains one run, or what is left of it."""
    if (directory / runs.METRICS).exists():
        return
    print(f"\n=== {directory}", flush=True)
    command = [sys.executable, "recipes/train_rarl.py", *flags]
    command += ["--seed", str(seed), "--output_dir", str(directory)]
    if directory.exists():
        command.append("--resume")
    subprocess.run(command, check=True)


def with_random_places(directory):
    """Gives the mean mAP of a learned network that looks at random places."""
    model = keras.saving.load_model(directory / runs.MODEL)
    learned = model.get_layer("attention")
    data = scenes.read(None, "test")
    size = model.input_shape[1]
    batches = pipeline.evaluation_batches(data.examples, size, 50)
    features = keras.Model(model.input, learned.input)
    maps = features.predict(batches, verbose=0)
    found = []
    for seed in range(DRAWS):
        config = {"locations": "random", "seed": seed}
        random = RecurrentAttention.from_config(learned.get_config() | config)
        random.build(maps.shape)
        for part in ("represent", "cell", "classifier"):
            weights = getattr(learned, part).get_weights()
            getattr(random, part).set_weights(weights)
        inputs = keras.Input(maps.shape[1:])
        looking = keras.Model(inputs, random(inputs)["scores"][:, 0])
        scores = looking.predict(maps, batch_size=50, verbose=0)
        found.append(metrics.mean_average_precision(data.targets(), scores))
    return np.mean(found)


if __name__ == "__main__":
    main()
