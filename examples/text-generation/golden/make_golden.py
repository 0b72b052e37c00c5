"""Writes golden.json: what the Python reference says about some prompts.

The reference is transformers on PyTorch, which reads the same GGUF file with a reader of its own. Run the script again only when
the model or the versions change (from the root of the repository, with 6 GB of free disk):

    make models
    python3 -m venv reference
    reference/bin/pip install torch==2.11.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0
    reference/bin/python examples/text-generation/golden/make_golden.py
"""

import json
import pathlib

import torch
import transformers

TEXTS = {
    "sentence": "The capital of France is",
    "numbers": "1, 2, 3, 4, 5, 6, 7,",
    "code": "def add(a, b):\n    return",
    "spaces and emoji": "  Wow!!! 🚀🔥 It's 100% free\n\n(really?)",
    "German": "Die Würde des Menschen ist",
    "more than one pass": " ".join(f"Sentence number {i} says something else." for i in range(40)),
}
CHATS = {
    "one question": [{"role": "user", "content": "What is the capital of Italy?"}],
    "with a system message": [
        {"role": "system", "content": "You are a pirate."},
        {"role": "user", "content": "Who are you?"},
    ],
    "a conversation": [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Hello Ada! How can I help you?"},
        {"role": "user", "content": "What is my name?"},
    ],
}
# Tokens that are generated, and scores that are kept.
STEPS = 8
SCORES = 5


def main():
    here = pathlib.Path(__file__).resolve().parent
    folder = here.parents[2] / ".models" / "SmolLM2-135M-Instruct"
    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    prompts = [(name, {"text": text}, tokenizer(text, add_special_tokens=False)["input_ids"]) for name, text in TEXTS.items()]
    for name, chat in CHATS.items():
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        prompts.append((name, {"chat": chat}, tokenizer(text, add_special_tokens=False)["input_ids"]))
    cases = []
    with torch.no_grad():
        for name, prompt, ids in prompts:
            scores = model(torch.tensor([ids])).logits[0, -1]
            best = scores.topk(SCORES)
            all_ids = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=STEPS, use_cache=True)[0]
            cases.append(
                {
                    "name": name,
                    **prompt,
                    "ids": ids,
                    "best": best.indices.tolist(),
                    "scores": [round(x, 5) for x in best.values.tolist()],
                    "next": all_ids[len(ids) :].tolist(),
                }
            )
            print(f"{len(ids):4} tokens  {name}: {tokenizer.decode(all_ids[len(ids):])!r}")
    golden = {"model": file, "made_with": {"torch": torch.__version__, "transformers": transformers.__version__}}
    lines = ",\n".join("    " + json.dumps(case, ensure_ascii=False) for case in cases)
    head = json.dumps(golden, indent=2)[:-2]
    (here / "golden.json").write_text(f'{head},\n  "cases": [\n{lines}\n  ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
