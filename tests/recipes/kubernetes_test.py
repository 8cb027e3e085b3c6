import json
import os
import pathlib
import subprocess
from unittest import mock

import tensorflow as tf
import yaml

from recipes import cli, train_csra
from zoo import workers

ROOT = pathlib.Path(__file__).parents[2]
MANIFEST = ROOT / "recipes/config/kubernetes.yaml"
# In place of `python`: says what it was started with.
ECHO = """#!/usr/bin/env python3
import json, os, sys
print(json.dumps({"TF_CONFIG": os.environ["TF_CONFIG"], "argv": sys.argv[1:]}))
"""


class KubernetesTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.service, self.job = yaml.safe_load_all(MANIFEST.read_text())
        self.pod = self.job["spec"]["template"]["spec"]
        (self.container,) = self.pod["containers"]
        self.env = {e["name"]: e["value"] for e in self.container["env"]}

    def start(self, index):
        """Runs the container's command in the pod of one index."""
        folder = pathlib.Path(self.get_temp_dir())
        (folder / "python").write_text(ECHO)
        (folder / "python").chmod(0o755)
        output = subprocess.run(
            [*self.container["command"], *self.container["args"]],
            env={
                **self.env,
                "JOB_COMPLETION_INDEX": str(index),
                "PATH": f"{folder}:{os.environ['PATH']}",
            },
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return json.loads(output)

    def test_every_pod_finds_the_others(self):
        name = self.service["metadata"]["name"]
        (port,) = self.service["spec"]["ports"]
        addresses = set()
        for index in range(int(self.env["WORKERS"])):
            config = self.start(index)["TF_CONFIG"]
            with mock.patch.dict(os.environ, {"TF_CONFIG": config}):
                self.assertEqual(workers.cluster(), (index, 2))
            addresses.add(tuple(json.loads(config)["cluster"]["worker"]))
        self.assertEqual(
            addresses,
            {
                tuple(
                    # As Kubernetes names the pods of an indexed Job.
                    f"{self.job['metadata']['name']}-{i}.{name}:{port['port']}"
                    for i in range(2)
                )
            },
        )

    def test_names_and_numbers_agree(self):
        spec = self.job["spec"]
        self.assertEqual(self.service["spec"]["clusterIP"], "None")
        self.assertEqual(
            self.service["spec"]["selector"],
            {"job-name": self.job["metadata"]["name"]},
        )
        self.assertEqual(
            self.pod["subdomain"], self.service["metadata"]["name"]
        )
        for key in ("completions", "parallelism"):
            self.assertEqual(spec[key], int(self.env["WORKERS"]))
        (port,) = self.service["spec"]["ports"]
        self.assertEqual(
            self.container["ports"], [{"containerPort": port["port"]}]
        )
        mounts = {m["name"] for m in self.container["volumeMounts"]}
        self.assertEqual(mounts, {v["name"] for v in self.pod["volumes"]})

    def test_pods_have_numbers_and_all_start_again(self):
        """What the API says of these keys; a misspelt one is ignored there."""
        spec = self.job["spec"]
        self.assertEqual(
            [self.service["apiVersion"], self.job["apiVersion"]],
            ["v1", "batch/v1"],
        )
        self.assertEqual(
            {k: spec[k] for k in spec.keys() - {"template"}},
            {
                "completionMode": "Indexed",
                "completions": 2,
                "parallelism": 2,
                "backoffLimit": 100,
                "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
            },
        )
        self.assertEqual(self.pod["restartPolicy"], "OnFailure")
        self.assertTrue(self.service["spec"]["publishNotReadyAddresses"])

    def test_a_container_has_what_training_needs(self):
        limits = self.container["resources"]["limits"]
        self.assertGreaterEqual(limits["nvidia.com/gpu"], 1)
        self.assertEqual(self.container["workingDir"], "/project")
        # A signal must come to Python, not to the shell.
        self.assertIn("exec python", self.container["args"][0])
        claims = [
            volume["persistentVolumeClaim"]["claimName"]
            for volume in self.pod["volumes"]
            if "persistentVolumeClaim" in volume
        ]
        self.assertLen(set(claims), 2)
        memory = [v["name"] for v in self.pod["volumes"] if "emptyDir" in v]
        paths = {
            m["name"]: m["mountPath"] for m in self.container["volumeMounts"]
        }
        self.assertEqual([paths[name] for name in memory], ["/dev/shm"])

    def test_the_recipe_takes_the_flags(self):
        script, *flags = self.start(0)["argv"]
        self.assertEqual(script, "recipes/train_csra.py")
        arguments, recipe = cli.parse("", train_csra.RECIPES, flags)
        self.assertTrue(arguments.resume)
        self.assertEqual(recipe.batch_size % int(self.env["WORKERS"]), 0)
        # Several workers take all of their devices.
        self.assertEqual(arguments.devices, "all")
        is_read_only = {
            mount["mountPath"]: mount.get("readOnly", False)
            for mount in self.container["volumeMounts"]
        }
        self.assertTrue(is_read_only[f"/{arguments.data_dir.parts[1]}"])
        self.assertFalse(is_read_only[f"/{arguments.output_dir.parts[1]}"])
