"""Runs what the README tells the owner of photos to run."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.data import pipeline, voc

ROOT = pathlib.Path(__file__).parents[1]
# `python` is the one that runs the tests.
PATH = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
ENVIRONMENT = {**os.environ, "PATH": PATH}
MINI = ROOT.parent / "shared/data/voc_mini/VOCdevkit"


def commands(heading):
    """Gives the bash blocks below a heading, each as a list of lines."""
    _, _, below = (ROOT / "README.md").read_text().partition(f"## {heading}\n")
    section, _, _ = below.partition("\n## ")
    blocks = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    return [block.splitlines() for block in blocks]


def wait_for(port, process):
    while process.poll() is None:
        with socket.socket() as asked:
            if asked.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"The server ended with {process.returncode}.")


@pytest.mark.heavy
class OwnPhotosTest(tf.test.TestCase):
    def write_photos(self, folder):
        """Makes of VOC's photos what the README asks for."""
        rows = ["image,labels,split"]
        (folder / "photos").mkdir()
        for i, example in enumerate(self.examples):
            name = f"photos/{example.image_id}.jpg"
            shutil.copy(example.image_path, folder / name)
            present = np.flatnonzero(example.targets == 1)
            labels = "|".join(voc.CLASSES[k] for k in present)
            rows.append(f"{name},{labels},{'test' if i % 5 == 0 else 'train'}")
        (folder / "photos.csv").write_text("\n".join(rows) + "\n")

    def test_from_a_csv_to_an_answer(self):
        if not MINI.exists():
            self.skipTest("needs shared/data/voc_mini, which is not there")
        folder = pathlib.Path(self.get_temp_dir())
        self.examples = voc.read(MINI, "trainval").examples[:44]
        self.write_photos(folder)
        # No link: what clears the folder away would follow it.
        shutil.copytree(ROOT / "recipes", folder / "recipes")
        (*lines, serve), (ask,) = commands("Your own photos")
        self.assertLen(lines, 3)
        # Another server may run on this machine.
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        serve, ask = (line.replace("8500", str(port)) for line in (serve, ask))

        def run(line):
            ended = subprocess.run(
                line,
                shell=True,
                cwd=folder,
                env=ENVIRONMENT,
                capture_output=True,
                text=True,
            )
            self.assertEqual(ended.returncode, 0, f"{line}\n{ended.stderr}")
            return ended.stdout

        check, train, evaluate = lines
        checked = run(check)
        trained = run(f"{train} --epochs 24")  # of 60, for time
        run(evaluate)
        self.assertIn("can be used", checked)
        self.assertIn("csra on manifest test", trained)
        page = (folder / "report/report.html").read_text()
        self.assertIn("aeroplane", page)
        server = subprocess.Popen(
            serve,
            shell=True,
            cwd=folder,
            env=ENVIRONMENT,
            start_new_session=True,
        )
        try:
            wait_for(port, server)
            answer = run(ask)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()
        model = keras.saving.load_model(folder / "runs/photos/model.keras")
        card = json.loads((folder / "runs/photos/card.json").read_text())
        images, targets = pipeline.evaluation_batch(
            self.examples, card["image_size"]
        )
        expected = tf.sigmoid(model.predict(images, verbose=0)).numpy()
        right = wrong = 0
        for example, probabilities, present in zip(
            self.examples, expected, targets == 1, strict=True
        ):
            (printed,) = re.findall(
                rf"{example.image_id}\.jpg\n((?:  .*\n)*)", answer
            )
            found = dict(re.findall(r"  (\w+) +(\d\.\d+)\n", printed))
            self.assertContainsSubset(found, card["classes"])
            for k, name in enumerate(card["classes"]):
                if name in found:
                    self.assertAllClose(
                        float(found[name]), probabilities[k], atol=6e-4
                    )
                    is_right = present[voc.CLASSES.index(name)]
                    right, wrong = right + is_right, wrong + (not is_right)
                else:
                    self.assertLess(probabilities[k], 0.5005)
        self.assertGreater(right, wrong)


@pytest.mark.by_hand
class RealSizeTest(tf.test.TestCase):
    """One step at full size, an export and an answer, on two cores."""

    def test_resnet101_at_448(self):
        if not MINI.exists():
            self.skipTest("needs shared/data/voc_mini, which is not there")
        folder = pathlib.Path(self.get_temp_dir())
        photos = sorted((MINI / "VOC2012/JPEGImages").glob("*.jpg"))[:3]
        lines = ["image,labels,split"]
        for photo, split in zip(
            photos, ("train", "train", "test"), strict=True
        ):
            lines.append(
                f"{photo},{'cat' if split == 'train' else 'dog'},{split}"
            )
        (folder / "photos.csv").write_text("\n".join(lines))
        flags = "--backbone resnet101 --pretrained none --epochs 1"
        flags += " --image_size 448 --batch_size 2"
        subprocess.run(
            f"python {ROOT}/recipes/train_csra.py --dataset manifest {flags} "
            "--data_dir photos.csv --output_dir run --validation_fraction 0",
            shell=True,
            cwd=folder,
            env=ENVIRONMENT,
            check=True,
        )
        loaded = tf.saved_model.load(str(folder / "run/export/csra/1"))
        answer = loaded.signatures["serving_default"](
            tf.constant([photos[2].read_bytes()])
        )
        stored = np.load(folder / "run/predictions.npz")["probabilities"]
        self.assertAllClose(answer["probabilities"], stored, atol=1e-5)
