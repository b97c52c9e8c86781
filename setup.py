import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "mask2former/version.py").read_text(encoding="utf-8"), re.M)[1]
EXTRAS = {
    "train": ["hotcoco>=1.3", "open_clip_torch>=2.30", "tensorboard>=2.14"],
    "eval": ["hotcoco>=1.3", "pycocotools>=2.0.8"],
    "docs": ["latex2mathml>=3.77", "mkdocs>=1.6,<2", "mkdocs-material>=9.6", "mkdocstrings-python>=2.0"],
    "hf": ["datasets>=5.2"],  # not in `test`: it wants a newer huggingface_hub than the oldest we take
    "photos": ["pillow-heif>=0.21", "tifffile>=2024.8"],
    "peers": ["onnx>=1.16", "onnxscript>=0.3", "onnxruntime>=1.18", "openvino>=2024.6"],
}
EXTRAS["test"] = sorted(
    {
        *EXTRAS["train"],
        *EXTRAS["eval"],
        *EXTRAS["docs"],
        *EXTRAS["photos"],
        "hypothesis>=6.100",
        "mypy>=1.14",
        "pytest>=8",
        "ruff>=0.9",
        "transformers>=5.9",
    }
)
PACKAGES = [
    "mask2former",
    "mask2former.commands",
    "mask2former.data",
    "mask2former.evaluation",
    "mask2former.inference",
    "mask2former.kernels",
    "mask2former.kernels.deformable_sampling",
    "mask2former.modeling",
    "mask2former.training",
    "oneformer",
    "weights",
]

setup(
    name="mask2former-oneformer",
    version=VERSION,
    description="Mask2Former and OneFormer in plain PyTorch: exact, fast, and able to load every published checkpoint",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=PACKAGES,
    package_data={
        **{package: ["py.typed"] for package in PACKAGES},
        "mask2former.data": ["py.typed", "*.json"],
        "weights": ["py.typed", "*.json", "bundled/*", "bundled/*/*"],
    },
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "timm>=1.0.26",  # the first that never unpickles a file which a configuration may name
        "numpy>=1.26",
        "scipy>=1.11.1",
        "safetensors>=0.4.5",
        "msgspec>=0.19",
        "filelock>=3.13",
        "huggingface_hub>=0.27",
        "pillow>=12.3",  # before it, photos of some kinds corrupt memory while they are opened
        "tqdm>=4.66",
        "pyyaml>=6.0.1",  # data.yaml of YOLO; huggingface_hub and timm need it too
    ],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "mask2former=mask2former.cli:main",
            "oneformer=oneformer.__main__:main",
        ]
    },
)
