"""`text-embeddings` for the official worker, as its author would write it with care: the same weights and tokenizer in plain PyTorch,
in half precision, with fused attention, pinned memory and a warm-up. Needs torch and tokenizers."""

import json
import os
import pathlib
import struct

import runpod
import torch
from tokenizers import Tokenizer
from torch.nn import functional

FOLDER = pathlib.Path(os.environ["OFFICIAL_MODEL"])
DEVICE = torch.device(os.environ["OFFICIAL_DEVICE"])
PRECISION = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[os.environ["OFFICIAL_PRECISION"]]
CONCURRENCY = int(os.environ["OFFICIAL_CONCURRENCY"])
KINDS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


def load_weights(path):
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] not in ("F32", "F16", "BF16"):
            continue
        begin, end = entry["data_offsets"]
        kind = KINDS[entry["dtype"]]
        count = (end - begin) // kind.itemsize
        tensor = torch.frombuffer(data, dtype=kind, count=count, offset=8 + length + begin)
        tensors[name] = tensor.reshape(entry["shape"]).to(DEVICE, PRECISION)
    return tensors


class Model:
    def __init__(self):
        self.config = json.loads((FOLDER / "config.json").read_text())
        self.longest = json.loads((FOLDER / "sentence_bert_config.json").read_text())["max_seq_length"]
        self.weights = load_weights(FOLDER / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
        self.tokenizer.enable_truncation(self.longest)
        self.tokenizer.no_padding()

    def dense(self, name, value):
        return functional.linear(value, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, name, value):
        scale, shift = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return functional.layer_norm(value, scale.shape, scale, shift, self.config["layer_norm_eps"])

    def layer(self, at, value, mask):
        rows, length, hidden = value.shape
        heads = self.config["num_attention_heads"]
        split = [
            self.dense(f"{at}.attention.self.{name}", value).view(rows, length, heads, hidden // heads).transpose(1, 2)
            for name in ("query", "key", "value")
        ]
        seen = functional.scaled_dot_product_attention(*split, attn_mask=mask).transpose(1, 2).reshape(value.shape)
        value = self.norm(f"{at}.attention.output.LayerNorm", self.dense(f"{at}.attention.output.dense", seen) + value)
        wide = functional.gelu(self.dense(f"{at}.intermediate.dense", value))
        return self.norm(f"{at}.output.LayerNorm", self.dense(f"{at}.output.dense", wide) + value)

    @torch.inference_mode()
    def vectors(self, rows):
        """Unit vectors of rows of token ids."""
        step = 8 if DEVICE.type == "cuda" else 1
        longest = -(-max(map(len, rows)) // step) * step
        ids = self.upload(torch.tensor([row + [0] * (longest - len(row)) for row in rows]))
        mask = self.upload(torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows]))
        tables = [self.weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "token_type", "position")]
        value = functional.embedding(ids, tables[0]) + tables[1][0] + tables[2][:longest]
        value = self.norm("embeddings.LayerNorm", value)
        for layer in range(self.config["num_hidden_layers"]):
            value = self.layer(f"encoder.layer.{layer}", value, mask[:, None, None, :])
        weight = mask.unsqueeze(-1).float()
        mean = (value.float() * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        return functional.normalize(mean).tolist()

    @staticmethod
    def upload(tensor):
        return tensor.pin_memory().to(DEVICE, non_blocking=True) if DEVICE.type == "cuda" else tensor

    def warm_up(self):
        for length in [16, 32, 64, 128, self.longest] if DEVICE.type == "cuda" else [16]:
            for rows in [1, 8, 32]:
                self.vectors([[0] * length] * rows)

    def embed(self, texts):
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        return [vector for begin in range(0, len(rows), 128) for vector in self.vectors(rows[begin : begin + 128])]


model = Model()
model.warm_up()


def handler(job):
    texts = job["input"]["input"]
    return {"embeddings": model.embed([texts] if isinstance(texts, str) else texts)}


runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda _: CONCURRENCY})
