"""Weights for the GPU benchmark that are small enough to carry: no packages needed.

    weights.py half FROM.safetensors TO.safetensors     the real ones in half precision (45 MB)
    weights.py seeded MODEL_FOLDER TO.safetensors       random ones in the shapes of config.json, the same everywhere: nothing to carry

What a job costs does not depend on the values, and both workers read the same file.
"""

import json
import pathlib
import random
import struct
import sys

SEED = 20261130
# A random byte as a number around 0 with the spread of trained weights.
SMALL = [struct.pack("<e", (byte - 127.5) / 127.5 * 0.07) for byte in range(256)]
LOW, HIGH = bytes(half[0] for half in SMALL), bytes(half[1] for half in SMALL)


def read(path):
    """The tensors of a safetensors file: name, type, shape, bytes."""
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            yield name, entry["dtype"], entry["shape"], data[begin:end]


def write(path, tensors):
    header, offset = {}, 0
    for name, kind, shape, data in tensors:
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for *_, data in tensors:
            file.write(data)


def half(source):
    for name, kind, shape, data in read(source):
        if kind == "F32":
            count = len(data) // 4
            kind, data = "F16", struct.pack(f"<{count}e", *struct.unpack(f"<{count}f", data))
        yield name, kind, shape, data


def shapes(folder):
    """Names and shapes of a BERT encoder."""
    config = json.loads((pathlib.Path(folder) / "config.json").read_text())
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    rows = {"word": "vocab_size", "position": "max_position_embeddings", "token_type": "type_vocab_size"}
    for name, count in rows.items():
        yield f"embeddings.{name}_embeddings.weight", [config[count], hidden]
    norms = ["embeddings.LayerNorm"]
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        dense = {f"attention.self.{name}": [hidden, hidden] for name in ("query", "key", "value")}
        dense |= {"attention.output.dense": [hidden, hidden], "intermediate.dense": [wide, hidden], "output.dense": [hidden, wide]}
        for name, shape in dense.items():
            yield f"{at}.{name}.weight", shape
            yield f"{at}.{name}.bias", shape[:1]
        norms += [f"{at}.attention.output.LayerNorm", f"{at}.output.LayerNorm"]
    for name in norms:
        yield f"{name}.weight", [hidden]
        yield f"{name}.bias", [hidden]


def seeded(folder):
    source = random.Random(SEED)
    for name, shape in shapes(folder):
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        if name.endswith("LayerNorm.weight"):
            data = struct.pack("<e", 1.0) * count
        else:
            chance = source.randbytes(count)
            data = bytearray(2 * count)
            data[0::2], data[1::2] = chance.translate(LOW), chance.translate(HIGH)
        yield name, "F16", shape, bytes(data)


def main():
    match sys.argv[1:]:
        case ["half", source, target]:
            write(target, list(half(source)))
        case ["seeded", folder, target]:
            write(target, list(seeded(folder)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
