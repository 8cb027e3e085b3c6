"""Enforces who may import whom, by walking the syntax trees.

Each place of the project may import only the places on its line of `MAY_USE`,
so that a reader knows from a file's place what it can depend on. A new place
needs a line here, which is where to think about the arrows.
"""

import ast
import importlib.util
import pathlib

import tensorflow as tf
from absl.testing import parameterized

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("zoo", "recipes", "export", "serving")

# Place -> what it may import of ours, besides itself. A name stands for all
# that is below it.
MAY_USE = {
    "zoo": (),  # `zoo/__init__.py` alone, the public names of what is below
    "zoo.layers": (),
    "zoo.losses": (),
    "zoo.models": ("zoo.layers", "zoo.beam_search"),
    "zoo.beam_search": (),
    "zoo.backbones": (),
    "zoo.data": ("zoo.preprocess", "zoo.runs"),
    "zoo.preprocess": (),
    "zoo.metrics": (),
    "zoo.tensorboard": (),
    "zoo.training": (
        "zoo.checkpoints",
        "zoo.metrics",
        "zoo.tensorboard",
        "zoo.workers",
    ),
    "zoo.checkpoints": ("zoo.runs", "zoo.workers"),
    "zoo.workers": (),
    "zoo.convert": ("zoo.backbones", "zoo.models", "zoo.runs"),
    "zoo.reports": ("zoo.metrics",),
    "zoo.comparison": ("zoo.reports", "zoo.runs"),
    "zoo.pictures": ("zoo.metrics",),
    "zoo.html_report": ("zoo.reports",),
    "zoo.runs": (),
    "zoo.feature_cache": ("zoo.runs",),
    "recipes": ("zoo", "export"),
    "export": ("zoo", "serving.signature"),
    "serving": (),
}
MAY_USE_TENSORFLOW = (
    "zoo.data",
    "zoo.preprocess",
    "zoo.tensorboard",
    "zoo.training",
    "zoo.workers",
    "export",
    "serving",
)
SHARED = (  # among the recipes
    *("answers", "cli", "compare", "data"),
    *("evidence", "losses", "report", "steps"),
)
TENSORFLOW = ("tensorflow", "tensorflow_serving")
# File that imports TensorFlow elsewhere -> the reason.
TENSORFLOW_EXCEPTIONS = {
    "zoo/layers/roi_crop_and_resize.py": "TensorFlow's crop, ten times as fast",
}


def is_within(module, place):
    return module == place or module.startswith(f"{place}.")


def module_name(path):
    """`zoo/data/voc.py` -> `zoo.data.voc`, `zoo/__init__.py` -> `zoo`."""
    return ".".join(pathlib.PurePosixPath(path).with_suffix("").parts).replace(
        ".__init__", ""
    )


def place_of(module):
    """Gives the line of `MAY_USE` that a module stands under, or `None`."""
    top, *below = module.split(".")
    place = f"{top}.{below[0]}" if top == "zoo" and below else top
    return place if place in MAY_USE else None


def imported_modules(path, tree):
    """Yields `(node, module)` for each import, at any depth of the file.

    `from zoo import data` gives `zoo.data`, since that is what it reaches.
    """
    package = module_name(path)
    if not path.endswith("__init__.py"):
        package = package.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name(
                "." * node.level + (node.module or ""), package
            )
            for alias in node.names:
                yield node, f"{base}.{alias.name}"


def import_violation(path, module):
    """Gives the rule that the import breaks, or `None`."""
    importer = module_name(path)
    place = place_of(importer)
    if is_within(importer, "serving.signature"):
        return "serving.signature imports nothing"
    if any(is_within(module, name) for name in TENSORFLOW):
        allowed = place in MAY_USE_TENSORFLOW or path in TENSORFLOW_EXCEPTIONS
        return None if allowed else f"{place} may not use TensorFlow"
    if not any(is_within(module, name) for name in (*PACKAGES, "tests")):
        return None  # not ours
    if place == "recipes" and is_within(module, "recipes"):
        if module == "recipes":  # for its environment
            return None
        shared = [f"recipes.{name}" for name in SHARED]
        allowed = any(is_within(module, name) for name in shared)
        return None if allowed else f"recipes share only {', '.join(SHARED)}"
    if any(is_within(module, name) for name in (place, *MAY_USE[place])):
        return None
    return f"{place} may not use {module}"


def violations(path, source):
    """Lists what a file does against the rules, as `path:line: what`.

    Args:
        path: str. Path below the root of the project, with slashes.
        source: str. The file's text.

    Returns:
        list of str, empty for a file that keeps the rules.
    """
    if place_of(module_name(path)) is None:
        return [f"{path}:1: {module_name(path)} has no line in MAY_USE"]
    tree = ast.parse(source)
    found = []
    for node, module in imported_modules(path, tree):
        if module.endswith(".*"):
            found.append((node, f"star import of {module[:-2]}"))
        rule = import_violation(path, module)
        if rule:
            found.append((node, rule))
    if path == "zoo/__init__.py":
        found += [
            (node, "zoo/__init__.py defines nothing")
            for node in tree.body
            if not is_public_name(node)
        ]
    return [f"{path}:{node.lineno}: {rule}" for node, rule in found]


def is_public_name(node):
    """Tells an import, a docstring and `__all__` from a definition."""
    if isinstance(node, ast.Assign):
        return [ast.unparse(target) for target in node.targets] == ["__all__"]
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.Import | ast.ImportFrom)


def project_files():
    """Yields `(path, source)` of each file of the packages."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            yield path, file.read_text(encoding="utf-8")


class ImportsTest(parameterized.TestCase, tf.test.TestCase):
    def test_project_keeps_the_rules(self):
        files = dict(project_files())
        for package in PACKAGES:
            self.assertIn(f"{package}/__init__.py", files)
        found = [v for file in files.items() for v in violations(*file)]
        self.assertEqual(found, [], "\n" + "\n".join(found))

    def test_scripts_set_their_environment_first(self):
        scripts = [
            (path, ast.parse(source))
            for path, source in project_files()
            if path.startswith("recipes/") and "__main__" in source
        ]
        self.assertGreater(len(scripts), 5)
        for path, tree in scripts:
            roots = [
                module.split(".")[0]
                for _, module in imported_modules(path, tree)
            ]
            lead_to_tensorflow = (*TENSORFLOW, "keras", *PACKAGES)
            first = next(x for x in roots if x in lead_to_tensorflow)
            self.assertEqual(first, "recipes", path)

    def test_exceptions_are_still_needed(self):
        files = dict(project_files())
        for path, reason in TENSORFLOW_EXCEPTIONS.items():
            self.assertTrue(reason)
            modules = [
                m for _, m in imported_modules(path, ast.parse(files[path]))
            ]
            self.assertTrue(
                any(is_within(m, name) for m in modules for name in TENSORFLOW),
                f"{path} no longer imports TensorFlow: drop its line",
            )

    @parameterized.parameters(
        ("zoo/layers/gate.py", "import tensorflow as tf", "TensorFlow"),
        ("zoo/losses.py", "from tensorflow import nn", "TensorFlow"),
        ("zoo/models/csra.py", "import tensorflow.nn", "TensorFlow"),
        ("zoo/metrics.py", "import numpy, tensorflow", "TensorFlow"),
        ("zoo/backbones.py", "def f():\n  import tensorflow", ":2: "),
        ("recipes/cli.py", "from tensorflow_serving import apis", "TensorFlow"),
        ("zoo/layers/gate.py", "from zoo.models import csra", "zoo.models"),
        ("zoo/layers/gate.py", "from zoo import metrics", "zoo.metrics"),
        ("zoo/layers/gate.py", "from ..models import csra", "zoo.models"),
        ("zoo/layers/__init__.py", "from .. import losses", "zoo.losses"),
        ("zoo/layers/gate.py", "import zoo", "may not use zoo"),
        ("zoo/losses.py", "import zoo.layers", "zoo.layers"),
        ("zoo/models/csra.py", "from zoo import backbones", "zoo.backbones"),
        ("zoo/models/csra.py", "from zoo import losses", "zoo.losses"),
        ("zoo/models/csra.py", "from zoo import layers_old", "layers_old"),
        ("zoo/beam_search.py", "from zoo.models import rarl", "zoo.models"),
        ("zoo/backbones.py", "from zoo import preprocess", "zoo.preprocess"),
        ("zoo/data/voc.py", "from zoo import metrics", "zoo.metrics"),
        ("zoo/preprocess.py", "from zoo.data import voc", "zoo.data"),
        ("zoo/metrics.py", "from zoo import losses", "zoo.losses"),
        ("zoo/training.py", "from zoo import models", "zoo.models"),
        ("zoo/convert.py", "from zoo import training", "zoo.training"),
        ("zoo/training.py", "from recipes import cli", "recipes.cli"),
        ("zoo/training.py", "import export.saved_model", "export"),
        ("zoo/data/voc.py", "from tests import contract", "tests.contract"),
        ("zoo/__init__.py", "from recipes import cli", "recipes.cli"),
        ("zoo/helpers.py", "import os", "zoo.helpers has no line"),
        (
            "recipes/train_fan.py",
            "from recipes.train_csra import Recipe",
            "recipes share only answers, cli, compare, data, evidence, losses",
        ),
        (
            "recipes/train_fan.py",
            "from recipes import train_csra",
            "share only",
        ),
        ("recipes/train_fan.py", "from . import train_csra", "share only"),
        ("recipes/train_fan.py", "from serving import client", "serving"),
        ("export/saved_model.py", "from serving import client", "serving"),
        ("export/saved_model.py", "import serving", "may not use serving"),
        ("export/saved_model.py", "from recipes import cli", "recipes.cli"),
        ("serving/client.py", "from zoo import preprocess", "zoo.preprocess"),
        ("serving/server.py", "import export", "may not use export"),
        ("serving/signature.py", "import os", "imports nothing"),
        ("zoo/models/csra.py", "from zoo.layers import *", "star import"),
        ("serving/client.py", "from os import *", "star import of os"),
        ("zoo/__init__.py", "def f():\n  pass", "defines nothing"),
        ("zoo/__init__.py", "VERSION = 1", "defines nothing"),
        ("zoo/__init__.py", "print(1)", "defines nothing"),
    )
    def test_finds_what_breaks_a_rule(self, path, source, message):
        found = violations(path, source)
        self.assertLen(found, 1, found)
        self.assertIn(message, found[0])
        self.assertStartsWith(found[0], f"{path}:")

    @parameterized.parameters(
        ("zoo/__init__.py", '"""Zoo."""\nfrom zoo import data\n__all__ = []'),
        ("zoo/layers/gate.py", "import keras\nfrom keras import ops"),
        ("zoo/layers/__init__.py", "from zoo.layers.gate import Gate"),
        ("zoo/layers/__init__.py", "from .gate import Gate"),
        ("zoo/models/csra.py", "from zoo.layers import ResidualAttention"),
        ("zoo/models/rnn.py", "from zoo import beam_search, layers"),
        ("zoo/data/voc.py", "import tensorflow as tf\nfrom zoo import data"),
        ("zoo/data/pipeline.py", "from zoo.preprocess import decode"),
        ("zoo/training.py", "import tensorflow\nfrom zoo import metrics"),
        ("recipes/train_fan.py", "import zoo, export\nfrom recipes import cli"),
        ("export/saved_model.py", "import zoo\nfrom serving import signature"),
        ("export/__main__.py", "from export.saved_model import main"),
        ("serving/client.py", "import tensorflow_serving.apis"),
        ("serving/client.py", "from serving import signature"),
        ("serving/signature.py", 'INPUT = "image_bytes"'),
    )
    def test_accepts_what_keeps_the_rules(self, path, source):
        self.assertEqual(violations(path, source), [])
