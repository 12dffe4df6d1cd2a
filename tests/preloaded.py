"""Imported once by the server of `processes`: what most commands import."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import jinja2.ext  # noqa: F401
import pandas  # noqa: F401
import pyarrow.dataset
import pyarrow.parquet  # noqa: F401
import sklearn  # noqa: F401
import torch  # noqa: F401
import torchvision  # noqa: F401
from PIL import Image

import contralens
import contralens.cli
import contralens.proposing.propose
import contralens.report.html
import contralens.settings.label

Image.init()
for name in ("label", "audit", "verify", "evaluate", "target"):
    getattr(contralens, name)
