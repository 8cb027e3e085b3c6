"""Tests which version of a model answers as folders come and go."""

import gc
import pathlib
import shutil
import tempfile
import weakref

import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

from serving.served_model import RequestError, ServedModel
from tests.serving import small_model

State = get_model_status_pb2.ModelVersionStatus


class ServedModelTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.saved = small_model.save(folder, 1, warmup=[small_model.jpeg(5)])

    def setUp(self):
        super().setUp()
        self.base_path = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory())
        )
        self.add(1)
        self.model = ServedModel("small", self.base_path)
        self.model.load()

    def add(self, version):
        return shutil.copytree(self.saved, self.base_path / str(version))

    def remove(self, version):
        shutil.rmtree(self.base_path / str(version))

    def refresh_in_vain(self):
        with self.assertLogs("serving.served_model", "ERROR"):
            self.model.refresh()

    def states(self):
        return {state.version: state.state for state in self.model.states()}

    def test_serves_the_highest_number(self):
        self.add(2)
        self.add(10)
        shutil.copytree(self.saved, self.base_path / "11.unfinished")
        (self.base_path / "12").mkdir()  # still being copied
        self.model.refresh()
        self.assertEqual(self.model.version().number, 10)
        self.assertEqual(self.model.version(10).number, 10)
        with self.assertRaisesRegex(RequestError, "Version 2.*Served: 10"):
            self.model.version(2)

    def test_loads_a_version_once(self):
        loaded = self.model.version()
        self.model.refresh()
        self.assertIs(self.model.version(), loaded)

    def test_running_request_finishes_on_the_old_version(self):
        old = self.model.version()
        self.add(2)
        self.model.refresh()
        self.model.refresh()
        self.assertEqual(
            self.states(), {1: State.UNLOADING, 2: State.AVAILABLE}
        )
        request = predict_pb2.PredictRequest()
        request.model_spec.signature_name = "labels"
        self.assertEqual(old.predict(request).model_spec.version.value, 1)
        del old
        self.model.refresh()
        self.assertEqual(self.states(), {1: State.END, 2: State.AVAILABLE})

    def test_frees_the_memory_of_the_old_version(self):
        self.addCleanup(gc.enable)
        gc.disable()  # or it may come to help by chance
        weights = weakref.ref(self.model.version()._model.scale.handle)
        self.add(2)
        self.model.refresh()
        self.model.refresh()
        self.assertIsNone(weights())

    def test_broken_version_leaves_the_old_one(self):
        (self.add(2) / "saved_model.pb").write_bytes(b"not a SavedModel")
        self.refresh_in_vain()
        self.assertEqual(self.states(), {1: State.AVAILABLE, 2: State.END})
        newest = self.model.states()[0]
        self.assertNotEqual(newest.status.error_code, 0)
        self.assertNotEmpty(newest.status.error_message)
        self.assertEqual(self.model.version().number, 1)

        # It is tried again, once its folder was gone.
        self.remove(2)
        self.add(2)
        self.model.refresh()
        self.assertEqual(self.model.version().number, 1)
        self.remove(2)
        self.model.refresh()
        self.assertEqual(self.states(), {1: State.AVAILABLE})
        self.add(2)
        self.model.refresh()
        self.assertEqual(self.model.version().number, 2)

    def test_a_failing_warmup_is_a_failing_version(self):
        small_model.write_warmup(self.add(2), [b"not a JPEG"])
        self.refresh_in_vain()
        self.assertEqual(self.states(), {1: State.AVAILABLE, 2: State.END})

    def test_removing_a_version_rolls_back(self):
        old = self.model.version()
        self.add(2)
        self.model.refresh()
        self.remove(2)
        self.model.refresh()
        self.assertIsNot(self.model.version(), old)
        # A request that outlived both swaps does not end the new version 1.
        del old
        self.model.refresh()
        self.assertEqual(self.states(), {1: State.AVAILABLE, 2: State.END})

    def test_no_version_left_keeps_serving(self):
        self.remove(1)
        self.model.refresh()
        self.assertEqual(self.model.version().number, 1)
