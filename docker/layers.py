#!/usr/bin/env python3
"""Prints the uncompressed size of each layer of an image, and fails when the image exceeds its budget.

    docker save IMAGE | docker/layers.py NAME [--budget MB] [--code-budget MB]

`--code-budget` limits the layers that a code change ships, together: those of the worker and the handler.
"""

import argparse
import json
import sys
import tarfile

MEGABYTE = 1_000_000
# The configuration and the manifest are much smaller than this, layers with content are larger.
LARGEST_DOCUMENT = 10 * MEGABYTE
# The paths of the two programs.
CODE = ("/usr/local/bin/", "/app/handler")


def read(stream):
    """Returns the sizes of all files in the archive, and the content of those that may be documents."""
    sizes, documents = {}, {}
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            if not member.isfile():
                continue
            sizes[member.name] = member.size
            if member.size <= LARGEST_DOCUMENT:
                documents[member.name] = archive.extractfile(member).read()
    return sizes, documents


def layers(stream):
    """Returns the size of each layer and the instruction that made it, lowest layer first."""
    sizes, documents = read(stream)
    manifest = json.loads(documents["manifest.json"])[0]
    history = json.loads(documents[manifest["Config"]])["history"]
    made = [entry.get("created_by", "") for entry in history if not entry.get("empty_layer")]
    return list(zip((sizes[layer] for layer in manifest["Layers"]), made, strict=True))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("name")
    arguments.add_argument("--budget", type=float)
    arguments.add_argument("--code-budget", type=float)
    options = arguments.parse_args()

    found = layers(sys.stdin.buffer)
    if options.code_budget is not None and not any(path in made for _, made in found for path in CODE):
        sys.exit(f"{options.name}: no layer is made of the programs in {' or '.join(CODE)}")
    print(f"{options.name}:")
    for size, made in found:
        print(f"{size / MEGABYTE:9.1f} MB  {' '.join(made.replace('/bin/sh -c', '').replace('#(nop)', '').split())[:110]}")
    failed = False
    for what, size, budget in [
        ("in all", sum(size for size, _ in found), options.budget),
        ("shipped by a change of code", sum(size for size, made in found if any(path in made for path in CODE)), options.code_budget),
    ]:
        over = budget is not None and size > budget * MEGABYTE
        limit = "" if budget is None else f", the budget is {budget:.0f} MB"
        print(f"{size / MEGABYTE:9.1f} MB  {what}{limit}{': OVER BUDGET' if over else ''}")
        failed |= over
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
