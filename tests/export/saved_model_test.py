import json
import pathlib
import shlex
import subprocess
import sys
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from export.saved_model import export, main, versions
from serving import signature
from serving.client import Client
from serving.server import Server
from tests import small
from zoo import preprocess, training
from zoo.data import pipeline
from zoo.data.example import Example
from zoo.models import csra

CLASSES = ("bird", "boat", "cat")


def jpegs(count=5, seed=0):
    """Encodes images of different sizes and shapes."""
    rng = np.random.default_rng(seed)
    encoded = []
    for i in range(count):
        coarse = rng.integers(0, 256, (6, 6, 3)).astype("float32")
        image = tf.image.resize(coarse, (40 + 17 * i, 90 - 11 * i))
        encoded.append(tf.io.encode_jpeg(tf.cast(image, "uint8")).numpy())
    return encoded


def model(image_size=48):
    """Builds a model whose batch statistics are not those of a new one."""
    keras.utils.set_random_seed(3)
    made = csra(small.backbone(image_size), len(CLASSES))
    images = np.stack([preprocess.load(j, image_size) for j in jpegs(8)])
    for _ in range(3):
        made(images, training=True)
    return made


class ExportedTest(tf.test.TestCase):
    """One version, which is read only."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        home = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.directory = pathlib.Path(home) / "csra"
        cls.card = {"method": "csra", "classes": list(CLASSES)}
        cls.model = model()
        cls.version = export(cls.model, CLASSES, cls.directory, card=cls.card)

    def signatures(self):
        return tf.saved_model.load(str(self.version)).signatures

    def test_all_ways_to_an_answer_agree(self):
        made, images = self.model, jpegs()
        examples = []
        for i, image in enumerate(images):
            path = pathlib.Path(self.get_temp_dir()) / f"{i}.jpg"
            path.write_bytes(image)
            examples.append(
                Example(
                    image_id=str(i),
                    image_path=str(path),
                    targets=np.zeros(3, "float32"),
                    boxes=np.zeros((0, 4), "float32"),
                    box_classes=np.zeros(0, "int32"),
                    box_difficult=np.zeros(0, bool),
                )
            )
        batches = pipeline.evaluation_batches(examples, 48, 2)
        logits = training.predict(made, batches, len(examples))
        evaluated = training.sigmoid(logits)
        self.assertGreater(np.ptp(evaluated, axis=0).min(), 1e-3)
        pixels = np.stack([preprocess.load(image, 48) for image in images])
        predicted = tf.sigmoid(made.predict(pixels, verbose=0))
        loaded = self.signatures()
        from_bytes = loaded[signature.SERVING_DEFAULT]
        batch = from_bytes(image_bytes=tf.constant(images))
        close = {"rtol": 0, "atol": 1e-5}
        self.assertAllClose(predicted, evaluated, **close)
        self.assertAllClose(batch["probabilities"], evaluated, **close)
        floats = loaded[signature.IMAGE_SIGNATURE](image=tf.constant(pixels))
        self.assertAllClose(floats["probabilities"], evaluated, **close)
        with (
            Server({"csra": str(self.directory)}, port=0) as server,
            Client(server.target) as client,
        ):
            self.assertEqual(client.labels("csra"), CLASSES)
            for _ in range(2):  # and again in a second run
                answers = client.predict(images, model="csra")
                for i, answer in enumerate(answers):
                    self.assertAllClose(
                        answer.probabilities, evaluated[i], **close
                    )
            for i, image in enumerate(images):
                alone = from_bytes(image_bytes=tf.constant([image]))
                self.assertAllClose(
                    alone["probabilities"][0], evaluated[i], **close
                )
                (answer,) = client.predict([image], model="csra")
                self.assertAllClose(answer.probabilities, evaluated[i], **close)

    def test_top_labels_are_sorted(self):
        serve = self.signatures()["serving_default"]
        answer = serve(image_bytes=tf.constant(jpegs()))
        order = np.argsort(-answer["probabilities"], axis=1)
        self.assertAllEqual(answer["top_labels"], np.array(CLASSES, "S")[order])
        self.assertAllClose(
            answer["top_probabilities"],
            np.take_along_axis(answer["probabilities"].numpy(), order, 1),
        )

    def test_files_beside_the_graph(self):
        self.assertEqual(
            (self.version / "assets/labels.txt").read_text(),
            "bird\nboat\ncat\n",
        )
        stored = json.loads(
            (self.version / "assets.extra/card.json").read_text()
        )
        self.assertEqual(stored, self.card)
        path = self.version / "assets.extra/tf_serving_warmup_requests"
        (record,) = tf.data.TFRecordDataset(str(path))
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        encoded = tf.make_ndarray(request.inputs["image_bytes"])
        serve = self.signatures()["serving_default"]
        answer = serve(image_bytes=tf.constant(encoded))
        self.assertEqual(answer["probabilities"].shape, (1, 3))

    @pytest.mark.heavy  # starts TensorFlow once more
    def test_a_wrong_rank_is_an_error_and_not_the_end_of_the_process(self):
        script = (
            "import sys, tensorflow as tf\n"
            "loaded = tf.saved_model.load(sys.argv[1])\n"
            "image = loaded.signatures['image']\n"
            "for shape in ((48, 48, 3), (1, 48, 48), (1, 40, 48, 3)):\n"
            "    try:\n"
            "        image(image=tf.zeros(shape))\n"
            "    except (ValueError, tf.errors.InvalidArgumentError):\n"
            "        print('refused')\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", script, str(self.version)],
            capture_output=True,
            text=True,
            check=True,
        )
        self.assertEqual(result.stdout.split(), ["refused"] * 3)

    @pytest.mark.heavy  # starts TensorFlow once more
    def test_saved_model_cli_shows_and_runs_it(self):
        image = f"{self.get_temp_dir()}/image.npy"
        np.save(image, np.zeros((2, 48, 48, 3), "float32"))
        script = (  # the tool, without starting TensorFlow for each command
            "import shlex, sys\n"
            "from tensorflow.python.tools import saved_model_cli\n"
            "for command in sys.argv[1:]:\n"
            "    sys.argv = ['saved_model_cli', *shlex.split(command)]\n"
            "    try:\n"
            "        saved_model_cli.main()\n"
            "    except SystemExit as end:\n"
            "        assert not end.code, end.code\n"
        )
        commands = (
            ("show", "--all"),
            ("run", "--tag_set", "serve", "--signature_def", "image")
            + ("--inputs", f"image={image}"),
        )
        commands = [
            shlex.join([*command, "--dir", str(self.version)])
            for command in commands
        ]
        printed = subprocess.run(
            [sys.executable, "-c", script, *commands],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in ("serving_default", "image", "labels", "top_labels"):
            self.assertIn(f"'{name}'", printed)
        self.assertIn("Result for output key probabilities", printed)


class ExportTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.get_temp_dir()) / self.id() / "csra"

    def test_versions_count_up_and_are_never_overwritten(self):
        made = model()
        (self.directory / "notes").mkdir(parents=True)
        export(made, CLASSES, self.directory, version=7)
        version = export(made, CLASSES, self.directory)
        self.assertEqual(version, self.directory / "8")
        self.assertEqual(versions(self.directory), [7, 8])
        with self.assertRaisesRegex(FileExistsError, "Version 7"):
            export(made, CLASSES, self.directory, version=7)
        names = {path.name for path in self.directory.iterdir()}
        self.assertEqual(names, {"7", "8", "notes"})

    def test_a_failed_export_leaves_nothing(self):
        with self.assertRaises(TypeError):
            export(model(), CLASSES, self.directory, card={"x": object()})
        self.assertEmpty(list(self.directory.iterdir()))

    def test_names_bad_arguments(self):
        for message, arguments in {
            "model has 3 classes.*2 names": (model(), ("a", "b")),
            "input_shape": (csra(small.backbone(None), 3), CLASSES),
        }.items():
            with self.assertRaisesRegex(ValueError, message):
                export(*arguments, self.directory)
        with self.assertRaisesRegex(ValueError, "version=0"):
            export(model(), CLASSES, self.directory, version=0)


class MainTest(tf.test.TestCase):
    def test_exports_a_finished_run(self):
        run = pathlib.Path(self.get_temp_dir()) / "run"
        run.mkdir()
        with self.assertRaises(SystemExit):
            main([str(run)])  # not finished
        card = {"method": "csra", "classes": CLASSES}
        (run / "card.json").write_text(json.dumps(card))
        model().save(run / "model.keras")
        main([str(run)])
        main([str(run), "--directory", str(run / "other"), "--version", "4"])
        self.assertEqual(versions(run / "export/csra"), [1])
        self.assertEqual(versions(run / "other"), [4])
        with self.assertRaises(SystemExit):
            main([str(run), "--version", "1"])
