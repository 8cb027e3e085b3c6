"""Tests the names that the export, the server and the client agree on."""

import ast
import inspect

import tensorflow as tf

from serving import signature


class SignatureTest(tf.test.TestCase):
    def test_imports_nothing(self):
        tree = ast.parse(inspect.getsource(signature))
        for node in ast.walk(tree):
            self.assertNotIsInstance(node, ast.Import | ast.ImportFrom)

    def test_names_that_exports_in_production_depend_on(self):
        # To change one is to break every model that is served already.
        self.assertEqual(signature.SERVING_DEFAULT, "serving_default")
        self.assertEqual(signature.IMAGE_SIGNATURE, "image")
        self.assertEqual(signature.LABELS_SIGNATURE, "labels")
        self.assertEqual(signature.REGIONS_SIGNATURE, "regions")
        self.assertEqual(signature.IMAGE_BYTES, "image_bytes")
        self.assertEqual(signature.IMAGE, "image")
        self.assertEqual(signature.REGIONS, "regions")
        self.assertEqual(signature.PROBABILITIES, "probabilities")
        self.assertEqual(signature.TOP_LABELS, "top_labels")
        self.assertEqual(signature.TOP_PROBABILITIES, "top_probabilities")
        self.assertEqual(signature.LABELS, "labels")
        self.assertEqual(signature.SEQUENCE_LABELS, "sequence_labels")
        self.assertEqual(
            signature.SEQUENCE_PROBABILITIES, "sequence_probabilities"
        )

    def test_default_signature_and_warmup_file_are_tensorflows(self):
        self.assertEqual(
            signature.SERVING_DEFAULT,
            tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY,
        )
        self.assertEqual(
            signature.WARMUP_FILE, "assets.extra/tf_serving_warmup_requests"
        )
