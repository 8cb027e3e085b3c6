"""Package metadata: what is installed and what it needs."""

from setuptools import find_packages, setup

OPENCV = "opencv-contrib-python-headless>=4.10"
JAX = "jax>=0.10"

setup(
    name="multilabel-zoo",
    version="0.1.0",
    description="Production model zoo for multi-label image recognition",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(
        include=["zoo", "zoo.*", "recipes", "export", "serving"]
    ),
    package_data={
        "zoo": ["weights/*.weights.h5"],
        "recipes": ["config/*"],
        "serving": ["config/*"],
    },
    # The ranges follow what the code relies on: TensorFlow and the serving
    # stubs must share a minor version; Keras has `MultiOptimizer` since 3.15.
    install_requires=[
        "tensorflow~=2.21.0",
        "keras~=3.15.1",
        "keras-hub~=0.32.0",
        "safetensors>=0.5",  # keras-hub reads timm's weights with it
        "tensorflow-serving-api~=2.21.0",
        "tensorboard~=2.21.0",
        "numpy>=2.0",
        "pillow>=10.1",
        "matplotlib>=3.9",
        "pycocotools>=2.0.11",
    ],
    extras_require={
        # Edge boxes are in OpenCV's contrib modules.
        "proposals": [OPENCV],
        # Another backend of Keras, for models, layers and losses.
        "jax": [JAX],
        "test": ["pytest>=8.0", "pytest-xdist>=3.6", "pyyaml>=6.0", OPENCV],
        "dev": [
            OPENCV,
            JAX,
            "pytest>=8.0",
            "pytest-xdist>=3.6",
            "pyyaml>=6.0",
            "ruff>=0.9",
            "scikit-learn>=1.6",
        ],
        "gpu": ["tensorflow[and-cuda]~=2.21.0"],
    },
)
