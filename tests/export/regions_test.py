"""A model that looks at given regions, from Keras to gRPC."""

import contextlib
import io
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized
from keras import ops
from tensorflow_serving.apis import prediction_log_pb2

from export.saved_model import export
from serving import signature, smoke
from serving.client import Client, ServingError
from serving.server import Server
from zoo import preprocess
from zoo.backbones import tiny
from zoo.data import proposals
from zoo.models import rarl, rgnn

CLASSES = ("red", "green", "blue")
SIZE = 32  # pixels, height and width of an image
WHOLE = ((0, 0, 1, 1),)
REGIONS = np.float32(
    [
        [[0, 0, 0.5, 0.5], [0.25, 0.5, 1, 1], [0, 0, 1, 1]],
        [[0.5, 0, 1, 0.25], [0, 0.5, 0.125, 0.75], [0, 0, 0, 0]],
    ]
)
CLOSE = {"rtol": 0, "atol": 1e-5}
# Runs the graph in a session, as TensorFlow Serving does. The signatures of a
# loaded model are functions, which look at shapes before the graph does.
SCRIPT = """
import pathlib, sys
import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf import config_pb2

image_bytes = pathlib.Path(sys.argv[2]).read_bytes()
with tf.Session(graph=tf.Graph()) as session:
    loaded = tf.saved_model.load(session, ["serve"], sys.argv[1])
    declared = loaded.signature_def["regions"]
    serve = session._make_callable_from_options(
        config_pb2.CallableOptions(
            feed=[declared.inputs[k].name for k in ("image_bytes", "regions")],
            fetch=[declared.outputs["probabilities"].name],
        )
    )
    for images, regions in (
        ((1,), ()), ((1,), (4,)), ((1,), (1, 4)), ((1,), (1, 1, 1, 4)),
        ((1,), (1, 1, 5)), ((), (1, 1, 4)), ((1, 1), (1, 1, 4)),
    ):
        try:
            images = np.full(images, image_bytes, object)
            serve(images, np.zeros(regions, "float32"))
        except tf.errors.InvalidArgumentError as error:
            assert "is not compatible with expected" in str(error), error
            print("refused")
"""


@keras.saving.register_keras_serializable(package="tests")
class Colors(keras.layers.Layer):
    """Gives the strongest mean color of the regions of an image."""

    def call(self, image, regions):
        place = (ops.arange(SIZE, dtype="float32") + 0.5) / SIZE
        y = (place >= regions[..., :1]) & (place < regions[..., 2:3])
        x = (place >= regions[..., 1:2]) & (place < regions[..., 3:])
        mask = ops.cast(y[..., None] & x[..., None, :], "float32")
        color = ops.einsum("brhw,bhwc->brc", mask, image)
        count = ops.sum(mask, axis=(-2, -1))[..., None]
        return ops.max(color / ops.maximum(count, 1), axis=1)


def build(num_regions=None):
    """Builds a model that calls an image red as its reddest region is."""
    image = keras.Input((SIZE, SIZE, 3), name="image")
    regions = keras.Input((num_regions, 4), name="regions")
    logits = keras.layers.Rescaling(1 / 32, -4)(Colors()(image, regions))
    return keras.Model({"image": image, "regions": regions}, logits)


def jpegs():
    """Encodes two images of other sizes, bright in other places."""
    encoded = []
    for i in range(2):
        coarse = np.random.default_rng(i).integers(256, size=(4, 4, 3))
        image = tf.image.resize(coarse, (40 + 17 * i, 70 - 11 * i))
        encoded.append(tf.io.encode_jpeg(tf.cast(image, "uint8")).numpy())
    return encoded


class RegionsTest(parameterized.TestCase, tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = pathlib.Path(
            cls.enterClassContext(tempfile.TemporaryDirectory())
        )
        cls.model = build()
        cls.version = export(cls.model, CLASSES, cls.folder / "colors")
        cls.signatures = tf.saved_model.load(str(cls.version)).signatures
        cls.jpegs = jpegs()
        cls.pixels = np.stack([preprocess.load(j, SIZE) for j in cls.jpegs])

    def expected(self, regions, num_images=2, model=None):
        """Gives what the model in memory says of the first images."""
        shape = (num_images, *np.shape(regions)[-2:])
        inputs = {
            "image": self.pixels[:num_images],
            "regions": np.broadcast_to(regions, shape).astype("float32"),
        }
        return tf.sigmoid((model or self.model).predict(inputs, verbose=0))

    def test_a_grid_where_no_regions_are_given(self):
        grid = proposals.sliding_windows()
        from_bytes = self.signatures[signature.SERVING_DEFAULT]
        from_image = self.signatures[signature.IMAGE_SIGNATURE]
        for n in (1, 2):
            expected = self.expected(grid, n)
            answer = from_bytes(image_bytes=tf.constant(self.jpegs[:n]))
            self.assertAllClose(answer["probabilities"], expected, **CLOSE)
            answer = from_image(image=tf.constant(self.pixels[:n]))
            self.assertAllClose(answer["probabilities"], expected, **CLOSE)

    @parameterized.parameters((1, 1), (1, 3), (2, 1), (2, 3))
    def test_given_regions(self, num_images, num_regions):
        given = REGIONS[:num_images, :num_regions]
        answer = self.signatures[signature.REGIONS_SIGNATURE](
            image_bytes=tf.constant(self.jpegs[:num_images]),
            regions=tf.constant(given),
        )
        expected = self.expected(given, num_images)
        self.assertAllClose(answer["probabilities"], expected, **CLOSE)
        order = np.argsort(-expected, axis=1)
        self.assertAllEqual(answer["top_labels"], np.array(CLASSES, "S")[order])
        self.assertCountEqual(
            answer,
            self.signatures[signature.SERVING_DEFAULT].structured_outputs,
        )

    def test_served_answers(self):
        server = Server({"colors": str(self.folder / "colors")}, port=0)
        target = self.enterContext(server).target
        with Client(target) as client:
            by_grid = client.predict(self.jpegs, "colors")
            # The client pads those of the second image.
            given = client.predict(
                self.jpegs, "colors", regions=[REGIONS[0], REGIONS[1, :2]]
            )
        grid = self.expected(proposals.sliding_windows())
        for answers, expected in (
            (by_grid, grid),
            (given, self.expected(REGIONS)),
        ):
            self.assertAllClose(
                [answer.probabilities for answer in answers], expected, **CLOSE
            )
        self.check_smoke(target, "colors")

    def test_a_model_of_a_fixed_number(self):
        model = build(num_regions=2)
        version = export(model, CLASSES, self.folder / "two")
        serve = tf.saved_model.load(str(version)).signatures["serving_default"]
        answer = serve(image_bytes=tf.constant(self.jpegs))
        grid = proposals.sliding_windows(num_regions=2)
        self.assertAllClose(
            answer["probabilities"], self.expected(grid), **CLOSE
        )
        with Server({"two": str(self.folder / "two")}, port=0) as server:
            self.check_smoke(server.target, "two")
            with Client(server.target) as client:
                answers = client.predict(
                    self.jpegs, "two", regions=REGIONS[:, :2]
                )
                with self.assertRaisesRegex(ServingError, "INVALID_ARGUMENT"):
                    client.predict(self.jpegs, "two", regions=REGIONS)
        self.assertAllClose(
            [answer.probabilities for answer in answers],
            self.expected(REGIONS[:, :2]),
            **CLOSE,
        )

    @pytest.mark.heavy
    def test_rarl_with_given_regions(self):
        keras.utils.set_random_seed(0)
        model = rarl(
            tiny(SIZE, "stamps"),
            len(CLASSES),
            num_steps=4,
            units=8,
            level="P3",
            locations="given",
        )
        export(model, CLASSES, self.folder / "rarl")
        with Server({"rarl": str(self.folder / "rarl")}, port=0) as server:
            self.check_smoke(server.target, "rarl")

    @pytest.mark.heavy
    def test_rgnn_with_another_grid(self):
        keras.utils.set_random_seed(0)
        model = rgnn(tiny(SIZE, "stamps"), len(CLASSES), level="P3", dim=16)
        version = export(
            model, CLASSES, self.folder / "real", regions=REGIONS[0]
        )
        signatures = tf.saved_model.load(str(version)).signatures
        image_bytes = tf.constant(self.jpegs)
        answer = signatures["serving_default"](image_bytes=image_bytes)
        expected = self.expected(REGIONS[0], model=model)
        self.assertAllClose(answer["probabilities"], expected, **CLOSE)
        others = self.expected(WHOLE, model=model)
        self.assertGreater(np.abs(others - expected).max(), 1e-3)
        for regions in (REGIONS, REGIONS[:, :1], REGIONS[:, :0]):
            answer = signatures["regions"](
                image_bytes=image_bytes, regions=tf.constant(regions)
            )
            # No regions are as padding alone, which may not change anything.
            padded = np.pad(regions, ((0, 0), (0, 1), (0, 0)))
            self.assertAllClose(
                answer["probabilities"],
                self.expected(padded, model=model),
                **CLOSE,
            )
        with Server({"real": str(self.folder / "real")}, port=0) as server:
            self.check_smoke(server.target, "real")

    def check_smoke(self, target, model):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            code = smoke.main(["--target", target, "--model", model])
        self.assertEqual(code, 0, output.getvalue())
        self.assertRegex(output.getvalue(), "wrong regions: refused")

    @parameterized.parameters(
        (np.full((2, 1, 4), np.nan), "`regions` must be finite"),
        (np.full((2, 1, 4), np.inf), "`regions` must be finite"),
        (REGIONS * 32, r"0 to 1 of the image.*Received: \[\[0 0 16 16\]\]"),
        (-REGIONS, "0 to 1 of the image"),
        (REGIONS[..., ::-1], r"Received: \[\[0\.5 0\.5 0 0\]\]"),
        (REGIONS[:1], r"each image. Received: 2 images .* \[1 3 4\]"),
    )
    def test_refuses_regions(self, regions, message):
        with self.assertRaisesRegex(tf.errors.InvalidArgumentError, message):
            self.signatures[signature.REGIONS_SIGNATURE](
                image_bytes=tf.constant(self.jpegs),
                regions=tf.constant(regions, "float32"),
            )

    @pytest.mark.heavy  # starts TensorFlow once more
    def test_a_wrong_rank_is_an_error_and_not_the_end_of_the_process(self):
        image = self.folder / "image.jpg"
        image.write_bytes(self.jpegs[0])
        result = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(self.version), str(image)],
            capture_output=True,
            text=True,
            check=True,
        )
        self.assertEqual(result.stdout.split(), ["refused"] * 7)

    def test_warms_up_both(self):
        names = []
        for record in tf.data.TFRecordDataset(
            str(self.version / signature.WARMUP_FILE)
        ):
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            request = log.predict_log.request
            names.append(request.model_spec.signature_name)
            inputs = {
                key: tf.constant(tf.make_ndarray(value))
                for key, value in request.inputs.items()
            }
            answer = self.signatures[names[-1]](**inputs)
            self.assertEqual(answer["probabilities"].shape, (1, len(CLASSES)))
        self.assertEqual(names, ["serving_default", "regions"])

    def test_names_bad_arguments(self):
        image = self.model.input["image"]
        alone = keras.Model(image, ops.mean(image, axis=(1, 2)))
        boxes = keras.Input((None, 4), name="boxes")
        renamed = keras.Model(
            {"image": image, "boxes": boxes},
            self.model({"image": image, "regions": boxes}),
        )
        for message, model, grid in (
            ("takes no regions.*of shape .1, 4", alone, WHOLE),
            (r"inputs=.'boxes', 'image'", renamed, None),
            (r"of shape \(4,\)", self.model, WHOLE[0]),
            (r"\(num_regions, 4\), and at .*shape \(0,\)", self.model, []),
            (r"least one.*shape \(0, 4\)", self.model, REGIONS[0, :0]),
            (r"regions=\[\[0, 1\], \[0\]\]", self.model, [[0, 1], [0]]),
            (
                r"0 to 1 of .*regions\[1\]=\[0.0, 0.0, 9.0, 9.0\]",
                self.model,
                [*WHOLE, (0, 0, 9, 9)],
            ),
            (r"some area.*regions\[0\]", self.model, [(0.5, 0, 0.25, 1)]),
            (r"some area.*regions\[2\]=\[0.0,", self.model, REGIONS[1]),
            (r"regions\[0\]=\[nan", self.model, [[np.nan] * 4]),
            (r"shape \(2, 4\).*shape \(3, 4\)", build(2), REGIONS[0]),
            (r"shape \(999, 4\).*shape \(\d+, 4\)", build(999), None),
        ):
            with self.assertRaisesRegex(ValueError, message):
                export(model, CLASSES, self.folder / "bad", regions=grid)
        self.assertFalse((self.folder / "bad").exists())
