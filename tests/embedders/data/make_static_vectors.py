"""Writes static_vectors.npy: what the model2vec library (the oracle) makes of the texts in static_texts.json.

Run in an environment of its own, from the repository's root:
    pip install model2vec==0.10.0 && python tests/embedders/data/make_static_vectors.py
"""

import json
from pathlib import Path

import numpy as np
from model2vec import StaticModel

here = Path(__file__).parent
model = StaticModel.from_pretrained(here.parents[2] / "src/shelflist/embedders/models/static-minilm-256")
texts = json.loads((here / "static_texts.json").read_text("utf-8"))
np.save(here / "static_vectors.npy", model.encode(texts, use_multiprocessing=False))
