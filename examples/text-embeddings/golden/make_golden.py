"""Writes golden.json: the embeddings of some texts, computed by the Python reference.

The reference is sentence-transformers, the library with which the model was published, on the same libtorch release. Run
the script again only when the model or the versions change (from the root of the repository, with 4 GB of free disk):

    make model
    python3 -m venv reference
    reference/bin/pip install torch==2.11.0 sentence-transformers==6.2.0 transformers==5.23.0
    reference/bin/python examples/text-embeddings/golden/make_golden.py
"""

import json
import pathlib

import sentence_transformers
import torch
import transformers

TEXTS = {
    "short": "A man is eating food.",
    "similar to short": "Someone is having a meal.",
    "unrelated to short": "The stock market fell sharply after the announcement.",
    "one word": "Rust",
    "empty": "",
    "spaces and line breaks": "  leading,\ttabs and\n\nline breaks   ",
    "German": "Die Würde des Menschen ist unantastbar.",
    "Chinese": "机器学习正在改变世界。",
    "Arabic": "السلام عليكم ورحمة الله",
    "punctuation and emoji": "Wow!!! 🚀🔥 It's 100% free (really?) -- visit #1; e-mail me@x.org…",
    "paragraph": (
        "A serverless worker takes a job from the queue, runs it on the accelerator and posts the result. While the "
        "job is running, the worker tells the platform that it is alive. If the process dies, the job is given to "
        "another worker, and the caller never learns that anything went wrong."
    ),
    # With [CLS] and [SEP] exactly the model's limit, one more, and far more.
    "254 words": " ".join(["word"] * 254),
    "255 words": " ".join(["word"] * 255),
    "over 512 tokens": " ".join(f"sentence number {i} says something else." for i in range(120)),
}


def main():
    here = pathlib.Path(__file__).resolve().parent
    folder = here.parents[2] / ".models" / "all-MiniLM-L6-v2"
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    cases = []
    for name, text in TEXTS.items():
        vector = model.encode(text, batch_size=1, normalize_embeddings=True, convert_to_numpy=True)
        tokens = int(model.preprocess([text])["attention_mask"].sum())
        # Nine digits identify a 32-bit number.
        cases.append(
            {"name": name, "text": text, "tokens": tokens, "embedding": [float(f"{x:.9g}") for x in vector.tolist()]}
        )
    golden = {
        "model": "all-MiniLM-L6-v2",
        "max_seq_length": model.max_seq_length,
        "made_with": {
            "torch": torch.__version__,
            "sentence-transformers": sentence_transformers.__version__,
            "transformers": transformers.__version__,
        },
    }
    lines = ",\n".join("    " + json.dumps(case, ensure_ascii=False) for case in cases)
    head = json.dumps(golden, indent=2)[:-2]
    (here / "golden.json").write_text(f'{head},\n  "cases": [\n{lines}\n  ]\n}}\n', encoding="utf-8")
    for case in cases:
        print(f'{case["tokens"]:4} tokens  {case["name"]}')


if __name__ == "__main__":
    main()
