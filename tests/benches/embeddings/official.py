"""The handler of `text-embeddings` as its author would write it for the official worker: the same weights, in PyTorch."""

import os

import runpod
import torch
from sentence_transformers import SentenceTransformer

torch.set_num_threads(int(os.environ["OFFICIAL_THREADS"]))
model = SentenceTransformer(os.environ["OFFICIAL_MODEL"], device="cpu", local_files_only=True)


def handler(job):
    texts = job["input"]["input"]
    vectors = model.encode([texts] if isinstance(texts, str) else texts, normalize_embeddings=True)
    return vectors.tolist()


runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda _: int(os.environ["OFFICIAL_CONCURRENCY"])})
