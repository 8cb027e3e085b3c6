"""Finished runs as recipes leave them, with numbers drawn at random."""

import numpy as np

from zoo import reports, runs

CLASSES = ("ant", "bee", "cat", "dog")


def write_run(
    directory,
    method,
    seed,
    images="scenes test",
    data_sha256="a" * 64,
    test_sha256="t" * 64,
    commit="abc",
    other_scores=(),
    **recipe,
):
    """Writes recipe, metrics and card of a run.

    The numbers are drawn by method, seed and recipe. No image has a dog.

    Args:
        directory: `pathlib.Path`.
        method: str.
        seed: int.
        images: str, what the run is measured on.
        data_sha256: str, of the recipe.
        test_sha256: str, of the card.
        commit: str, of the card.
        other_scores: names of other scores of the run.
        **recipe: more fields of the recipe.

    Returns:
        dict, the report.
    """
    rng = np.random.default_rng([seed, *method.encode(), *str(recipe).encode()])
    targets = (np.random.default_rng(0).random((30, 4)) < 0.4).astype("float32")
    targets[:, 3] = 0
    measured = reports.measure(
        targets,
        rng.random((30, 4)),
        CLASSES,
        other_scores={name: rng.random((30, 4)) for name in other_scores},
    )
    report = {"images": images, "num_missing": 0, **measured}
    recipe = {
        **{"method": method, "dataset": "scenes", "seed": seed, **recipe},
        "data_sha256": data_sha256,
    }
    command = f"python recipes/train_{method}.py --seed {seed} --resume"
    command += " --output_dir 'a b' --lr 0.1"
    card = {
        **recipe,
        "test_sha256": test_sha256,
        "commit": commit,
        "versions": {"keras": "3"},
        "command": command,
    }
    runs.write_json(directory / runs.RECIPE, recipe)
    runs.write_json(directory / runs.METRICS, report)
    runs.write_json(directory / runs.CARD, card)
    return report


def write_runs(home):
    """Writes three runs of CSRA and two of GAP.

    Returns:
        dict from `(method, seed)` to report.
    """
    return {
        (method, seed): write_run(
            home / f"{method}-{seed}", method, seed, **recipe
        )
        for method, seeds, recipe in (
            ("csra", (2, 0, 1), {"num_heads": 1}),
            ("gap", (0, 1), {}),
        )
        for seed in seeds
    }
