"""A model that answers with sequences, from Keras to the command line."""

import contextlib
import io
import pathlib
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized
from keras import ops

from export.saved_model import export
from serving import ask, signature, smoke
from serving.client import Client
from serving.server import Server
from zoo.backbones import tiny
from zoo.models.order_free_rnn import order_free_rnn, path_model

CLASSES = ("red", "green", "blue", "black")
SIZE = 32  # pixels, height and width of an image
MAX_LABELS = 2
SEQUENCES = {  # color of an image -> its labels, the least probable first
    (250, 160, 10): ("green", "red"),
    (10, 10, 220): ("blue",),
    (100, 100, 100): (),
}


@keras.saving.register_keras_serializable(package="tests")
class Search(keras.layers.Layer):
    """Finds the labels above a half, the least probable first.

    Stands in for a beam search: a loop whose order is its own.
    """

    def call(self, logits):
        def step(t, left, sequence, found):
            label = ops.argmin(left, axis=1)[:, None]
            probability = ops.min(left, axis=1, keepdims=True)
            is_here = (ops.arange(MAX_LABELS) == t) & (probability <= 1)
            return (
                t + 1,
                ops.where(ops.arange(len(CLASSES)) == label, 2.0, left),
                ops.where(is_here, label, sequence),
                ops.where(is_here, probability, found),
            )

        probabilities = ops.sigmoid(logits)
        shape = (ops.shape(logits)[0], MAX_LABELS)
        _, _, sequence, found = ops.while_loop(
            lambda t, left, *_: ops.any(left <= 1) & (t < MAX_LABELS),
            step,
            (
                0,
                ops.where(probabilities > 0.5, probabilities, 2.0),
                ops.full(shape, -1, dtype="int32"),
                ops.zeros(shape),
            ),
        )
        return {"sequence": sequence, "sequence_probabilities": found}


def build():
    """Builds a model that calls an image red the redder it is, and so on."""
    image = keras.Input((SIZE, SIZE, 3), name="image")
    color = keras.layers.GlobalAveragePooling2D()(image)
    color = keras.layers.ZeroPadding1D((0, 1))(color[..., None])[..., 0]
    logits = keras.layers.Rescaling(1 / 32, offset=-4.0)(color)
    outputs = {"logits": logits, "mean_logits": 2 * logits}
    return keras.Model(image, {**outputs, **Search()(logits)})


class SequencesTest(parameterized.TestCase, tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = pathlib.Path(
            cls.enterClassContext(tempfile.TemporaryDirectory())
        )
        cls.model = build()
        cls.version = export(cls.model, CLASSES, cls.folder / "rnn")
        pixels = [np.full((SIZE, SIZE, 3), x, "uint8") for x in SEQUENCES]
        cls.inputs = {
            signature.IMAGE: np.array(pixels, "float32"),
            signature.IMAGE_BYTES: [
                tf.io.encode_png(image).numpy() for image in pixels
            ],
        }

    @parameterized.parameters(
        (signature.SERVING_DEFAULT, signature.IMAGE_BYTES),
        (signature.IMAGE_SIGNATURE, signature.IMAGE),
    )
    def test_saved_model_and_model_agree(self, name, key):
        serve = tf.saved_model.load(str(self.version)).signatures[name]
        self.assertNotIn("mean_logits", serve.structured_outputs)
        for images in (slice(0, 3), slice(0, 1), slice(1, 2), slice(2, 3)):
            expected = self.model(self.inputs["image"][images], training=False)
            served = serve(**{key: tf.constant(self.inputs[key][images])})
            self.assert_agree(served, expected)

    @pytest.mark.heavy
    def test_order_free_rnn_searches_with_its_last_threshold(self):
        keras.utils.set_random_seed(0)
        backbone = tiny(SIZE, "stamps")
        model = order_free_rnn(
            *(backbone, len(CLASSES), MAX_LABELS), units=8, threshold=1.0
        )
        pixels = np.random.default_rng(0).integers(
            256, size=(32, SIZE, SIZE, 3), dtype=np.uint8
        )
        # Bright to dark, or all would get one answer.
        pixels = np.uint8(pixels * np.linspace(1, 0, 32)[:, None, None, None])
        encoded = [tf.io.encode_png(image).numpy() for image in pixels]
        images = {
            signature.IMAGE: pixels.astype("float32"),
            signature.IMAGE_BYTES: np.array(encoded, object),
        }
        found = path_model(model)(images["image"])
        model.get_layer("decoder").threshold.assign(
            np.median(found["path_probabilities"])
        )
        expected = model(images["image"], training=False)
        lengths = ops.sum(expected["sequence"] >= 0, axis=1)
        self.assertGreater(len(set(lengths.numpy())), 1)
        version = export(model, CLASSES, self.folder / "real")
        signatures = tf.saved_model.load(str(version)).signatures
        for name, key in (
            (signature.SERVING_DEFAULT, signature.IMAGE_BYTES),
            (signature.IMAGE_SIGNATURE, signature.IMAGE),
        ):
            for size in (1, 3, 32):
                served = signatures[name](
                    **{key: tf.constant(images[key][-size:])}
                )
                self.assert_agree(
                    served, {k: v[-size:] for k, v in expected.items()}
                )

    def assert_agree(self, served, expected):
        names = np.array([*CLASSES, ""], "S")  # of -1, the last
        self.assertAllEqual(
            served["sequence_labels"], names[expected["sequence"]]
        )
        for output, value in (
            ("probabilities", tf.sigmoid(expected["logits"])),
            ("sequence_probabilities", expected["sequence_probabilities"]),
        ):
            self.assertDTypeEqual(served[output], "float32")
            self.assertAllClose(served[output], value, rtol=0, atol=1e-5)

    def test_served_answers(self):
        images = self.inputs["image_bytes"]
        expected = self.model(self.inputs["image"], training=False)
        server = Server({"rnn": str(self.folder / "rnn")}, port=0)
        target = self.enterContext(server).target
        with Client(target) as client:
            answers = client.predict(images, "rnn")
            answers += client.predict(images[2:], "rnn")
        for i, answer in zip((0, 1, 2, 2), answers, strict=True):
            labels = list(SEQUENCES.values())[i]
            self.assertEqual(answer.sequence_labels, labels)
            self.assertAllClose(
                answer.sequence_probabilities,
                expected["sequence_probabilities"][i, : len(labels)],
                rtol=0,
                atol=1e-5,
            )
        self.assertEqual(answers[0].top_labels[:2], ("red", "green"))
        path = self.folder / "image.png"
        path.write_bytes(images[0])
        arguments = ["--target", target, "--model", "rnn"]
        with contextlib.redirect_stdout(io.StringIO()) as output:
            self.assertEqual(ask.main([*arguments, str(path)]), 0)
            self.assertEqual(smoke.main(arguments), 0)
        lines = output.getvalue().splitlines()
        self.assertEqual(lines[1:3], ["  green  0.731", "  red    0.978"])
        text = r"sequences: [1-9]\d* known labels for 16 images, none twice"
        self.assertRegex("\n".join(lines), rf"\nok    {text}\n")

    def test_names_bad_arguments(self):
        for message, classes, outputs in (
            ("4 classes.*2 names", ("a", "b"), self.model.output),
            (
                "Received: outputs=.'mean_logits'.$",
                CLASSES,
                {"mean_logits": self.model.output["mean_logits"]},
            ),
        ):
            model = keras.Model(self.model.input, outputs)
            with self.assertRaisesRegex(ValueError, message):
                export(model, classes, self.folder / "bad")
        self.assertFalse((self.folder / "bad").exists())
