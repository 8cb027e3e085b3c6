"""Tests the checks of a server, on the embedded one and on faults of it."""

import contextlib
import io
import tempfile
from unittest import mock

import grpc
import tensorflow as tf
from absl.testing import parameterized
from tensorflow_serving.apis import get_model_status_pb2

from serving import smoke
from serving.served_model import LoadedVersion, RequestError, ServedModel
from serving.server import Server
from tests.serving import small_model
from zoo import preprocess

CHECKS = (
    *("status", "metadata", "jpeg", "labels", "sequences", "batch", "regions"),
    *("formats", "corrupt jpeg", "wrong rank", "wrong regions"),
    *("unknown signature", "unknown version"),
)
Status = get_model_status_pb2.ModelVersionStatus


class TopModel(small_model.SmallModel):
    """Looks at the upper half of an image, as the zoo's exports decode it."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def serving_default(self, image_bytes):
        brightness = tf.map_fn(
            lambda data: tf.reduce_mean(preprocess.load(data, 8)[:4]),
            image_bytes,
            fn_output_signature=tf.float32,
        )
        probabilities = brightness[:, None] / 255.0 * self.scale
        top_probabilities, indices = tf.math.top_k(probabilities, k=2)
        return {
            "probabilities": probabilities,
            "top_labels": tf.gather(tf.constant(small_model.CLASSES), indices),
            "top_probabilities": top_probabilities,
        }


def changing(change, *names):
    """Makes a fault: `change(array)` in place of the outputs `names`."""

    def fault(response):
        for name in set(names) & set(response.outputs):
            array = change(tf.make_ndarray(response.outputs[name]))
            response.outputs[name].CopyFrom(tf.make_tensor_proto(array))

    return fault


def sequences_by_place(response):
    """Gives the first image of a request another label than the others."""
    if "top_labels" in response.outputs:
        shape = tf.make_ndarray(response.outputs["top_probabilities"]).shape
        labels = [["dog"]] + [["person"]] * (shape[0] - 1)
        for name, rows in (
            ("sequence_labels", labels),
            ("sequence_probabilities", [[0.5]] * shape[0]),
        ):
            response.outputs[name].CopyFrom(tf.make_tensor_proto(rows))


PROBABILITIES = ("probabilities", "top_probabilities")
# name, what happens to each answer, the checks that see it
FAULTS = (
    ("high", changing(lambda p: p + 2, *PROBABILITIES), ["jpeg"]),
    ("low", changing(lambda p: p - 2, *PROBABILITIES), ["jpeg"]),
    ("top", changing(lambda p: p / 2, PROBABILITIES[1]), ["jpeg", "labels"]),
    ("top_names", changing(lambda n: n[:, ::-1], "top_labels"), ["labels"]),
    ("same_names", changing(lambda n: n[[1, 1, 2]], "labels"), ["labels"]),
    ("few_names", changing(lambda n: n[:2], "labels"), ["labels"]),
    (
        "order",
        changing(lambda p: p[::-1], "probabilities"),
        ["batch", "regions"],
    ),
    ("order_of_sequences", sequences_by_place, ["batch", "regions"]),
)
SEQUENCES = (  # name, labels, probabilities, the fault with them
    ("whole", ["dog", "person"], [0.2, 0.9], None),
    ("padded", ["caf\u00e9", ""], [0.2, 0], None),
    ("empty", ["", ""], [0, 0], None),
    ("unknown", ["cat", ""], [0.2, 0], "'cat'"),
    ("twice", ["dog", "dog"], [0.2, 0.2], "'dog', 'dog'"),
    ("gap", ["", "dog"], [0.2, 0], "'', 'dog'"),
    ("high", ["dog", ""], [1.2, 0], "1.2"),
    ("negative", ["dog", ""], [-0.2, 0], "-0.2"),
    ("padding_is_probable", ["dog", ""], [0.2, 0.1], "0.1"),
    ("shapes", ["dog", ""], [0.2], r"\(16, 2\), \(16, 1\)"),
)


class SmokeTest(parameterized.TestCase, tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        base_path = cls.enterClassContext(tempfile.TemporaryDirectory())
        with mock.patch.object(small_model, "SmallModel", TopModel):
            small_model.save(base_path, 1)
        cls.server = Server({"small": base_path}, port=0)
        cls.enterClassContext(cls.server)

    def run_main(self, model="small"):
        """Gives the lines about the checks, by name, and who failed."""
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            code = smoke.main(
                ["--target", self.server.target, "--model", model]
            )
        lines, failed = {}, []
        for line in output.getvalue().splitlines():
            name, _, text = line[len("FAIL  ") :].partition(": ")
            lines[name] = text
            failed += [name] if line.startswith("FAIL  ") else []
        self.assertEqual(code, int(bool(failed)))
        return lines, failed

    def check_fault(self, predict, expected):
        """Runs the checks with `predict(real, request)` as the model."""
        real = LoadedVersion.predict
        with mock.patch.object(
            LoadedVersion,
            "predict",
            lambda version, request: predict(
                lambda r: real(version, r), request
            ),
        ):
            lines, failed = self.run_main()
        self.assertEqual(failed, list(expected))
        return lines

    def test_all_is_well(self):
        lines, failed = self.run_main()
        self.assertEqual(list(lines), list(CHECKS))
        self.assertEqual(failed, [])
        self.assertEqual(lines["status"], "the versions are {1: 'AVAILABLE'}")
        self.assertStartsWith(lines["jpeg"], "person has 0.")
        self.assertEqual(lines["labels"], "3 classes")
        self.assertEqual(lines["sequences"], "the model gives none")
        self.assertEndsWith(lines["metadata"], "image, labels, regions")
        self.assertStartsWith(lines["regions"], "16 images with regions get")
        self.assertStartsWith(lines["wrong regions"], "refused")

    def test_unknown_model_ends_it(self):
        lines, failed = self.run_main(model="big")
        self.assertEqual(list(lines), ["status"])
        self.assertEqual(failed, ["status"])
        self.assertStartsWith(lines["status"], "NOT_FOUND: Model 'big'")

    def test_no_version_is_loaded(self):
        loading = Status(version=1, state=Status.LOADING)
        with mock.patch.object(ServedModel, "states", return_value=[loading]):
            lines, failed = self.run_main()
        self.assertEqual(failed, ["status"])
        self.assertIn("1: 'LOADING'", lines["status"])

    @parameterized.parameters(
        ("image", lambda signatures: signatures.pop("image")),
        ("labels", lambda signatures: signatures["labels"].outputs.clear()),
        ("labels", lambda signatures: signatures["labels"].inputs["x"]),
        (
            "regions",
            lambda signatures: signatures["regions"].inputs.pop("regions"),
        ),
    )
    def test_wrong_signature(self, name, change):
        version = self.server.models["small"].version()
        signatures = type(version.signatures)()
        signatures.CopyFrom(version.signatures)
        change(signatures.signature_def)
        with mock.patch.object(version, "signatures", signatures):
            lines, failed = self.run_main()
        self.assertIn("metadata", failed)
        self.assertIn(f"'{name}'", lines["metadata"])

    def test_a_model_without_regions(self):
        version = self.server.models["small"].version()
        signatures = type(version.signatures)()
        signatures.CopyFrom(version.signatures)
        signatures.signature_def.pop("regions")
        with mock.patch.object(version, "signatures", signatures):
            lines, failed = self.run_main()
        self.assertEqual(failed, [])
        self.assertEndsWith(lines["metadata"], "default, image, labels")
        self.assertEqual(lines["regions"], "the model takes none")
        self.assertEqual(lines["wrong regions"], "the model takes none")

    def test_padding_counts(self):
        def predict(real, request):
            response = real(request)
            if "regions" in request.inputs:
                regions = tf.make_ndarray(request.inputs["regions"])
                rows = (regions == 0).all(axis=-1).sum(axis=-1)[:, None]
                fault = changing(lambda p: p * 0.9**rows, *PROBABILITIES)
                fault(response)
            return response

        lines = self.check_fault(predict, ["regions"])
        self.assertRegex(lines["regions"], "image 0 of 16 differs by")

    def test_regions_do_not_matter(self):
        def predict(real, request):
            if request.model_spec.signature_name == "regions":
                real(request)  # or its error
                request.model_spec.signature_name = "serving_default"
                del request.inputs["regions"]
            return real(request)

        lines = self.check_fault(predict, ["regions"])
        self.assertRegex(lines["regions"], "a quarter gets the answer of the")

    @parameterized.named_parameters(*FAULTS)
    def test_wrong_answer(self, fault, expected):
        def predict(real, request):
            response = real(request)
            fault(response)
            return response

        self.check_fault(predict, expected)

    @parameterized.named_parameters(*SEQUENCES)
    def test_sequence(self, labels, probabilities, message):
        rows = {
            "sequence_labels": labels,
            "sequence_probabilities": probabilities,
        }
        real = LoadedVersion.predict

        def predict(version, request):
            response = real(version, request)
            images = request.inputs["image_bytes"].string_val
            for name, row in rows.items() if images else ():
                response.outputs[name].CopyFrom(
                    tf.make_tensor_proto([row] * len(images))
                )
            return response

        checks = smoke.Checks(self.server.target, "small")
        self.addCleanup(checks.close)
        with mock.patch.object(LoadedVersion, "predict", predict):
            if message is None:
                number = smoke.BATCH_SIZE * sum(map(bool, labels))
                self.assertEqual(
                    checks.sequences(),
                    f"{number} known labels for 16 images, none twice",
                )
            else:
                with self.assertRaisesRegex(smoke.CheckError, message):
                    checks.sequences()

    @parameterized.parameters(
        (b"WEBP", None, "WebP: .*not a JPEG"),
        (b"WEBP", 0.01, "WebP differs from PNG by 0.00"),
        (b"Exif", 0.01, "JPEG with an EXIF .* differs from upright PNG by"),
    )
    def test_formats_differ(self, mark, change, message):
        def predict(real, request):
            response = real(request)
            if mark in b"".join(request.inputs["image_bytes"].string_val):
                if change is None:
                    raise RequestError("not a JPEG")
                fault = changing(lambda p: p * (1 - change), *PROBABILITIES)
                fault(response)
            return response

        lines = self.check_fault(predict, ["formats"])
        self.assertRegex(lines["formats"], message)

    def test_a_side_matters(self):
        upright = smoke._ramp()
        turned = smoke._encoded(upright.swapaxes(0, 1), "PNG")
        with smoke.Client(self.server.target) as client:
            one, other = client.predict(
                [smoke._encoded(upright, "PNG"), turned], "small"
            )
        difference = one.probabilities - other.probabilities
        self.assertGreater(abs(difference).max(), 100 * smoke.TOLERANCE)

    def test_an_unknown_version_is_answered(self):
        real = ServedModel.version
        with mock.patch.object(
            ServedModel, "version", lambda model, number=None: real(model)
        ):
            _, failed = self.run_main()
        self.assertEqual(failed, ["unknown version"])

    def test_bad_requests_are_answered(self):
        good = {}  # signature -> answer

        def predict(real, request):
            name = request.model_spec.signature_name
            try:
                good[name] = real(request)
            except RequestError:
                pass
            return good.get(name) or next(iter(good.values()))

        lines = self.check_fault(
            predict,
            [
                "corrupt jpeg",
                "wrong rank",
                "wrong regions",
                "unknown signature",
            ],
        )
        self.assertEqual(lines["wrong rank"], "it got an answer")

    def test_bad_requests_have_another_code(self):
        def predict(real, request):
            try:
                return real(request)
            except RequestError as error:
                raise RequestError("oh", grpc.StatusCode.INTERNAL) from error

        lines = self.check_fault(
            predict,
            [
                "corrupt jpeg",
                "wrong rank",
                "wrong regions",
                "unknown signature",
            ],
        )
        self.assertIn("INTERNAL and not INVALID", lines["wrong rank"])
        self.assertIn("and not FAILED_PRE", lines["unknown signature"])

    def test_server_does_not_survive_a_bad_request(self):
        alive = [True]

        def predict(real, request):
            if not alive[0]:
                raise RequestError("it is dead", grpc.StatusCode.INTERNAL)
            try:
                return real(request)
            except RequestError:
                alive[0] = False
                raise

        lines = self.check_fault(predict, CHECKS[-5:])
        self.assertIn("it is dead", lines["corrupt jpeg"])

    def test_labels_are_refused(self):  # as by a server that batches
        def predict(real, request):
            if not request.inputs:
                raise RequestError("at least one input tensor")
            return real(request)

        lines = self.check_fault(predict, ["labels"])
        self.assertIn("at least one input tensor", lines["labels"])
