"""Reading the derivation: every stage from the loss to the generated module prints.

python examples/03_read_the_derivation.py [SPEC]
"""

import sys

import miras_dsl as miras
from miras_dsl.codegen.explain import STAGES


def main() -> None:
    spec = sys.argv[1] if len(sys.argv) > 1 else "deltanet"
    for stage in STAGES:
        if stage not in ("summary", "code", "all"):
            print(miras.explain(spec, stage=stage), end="\n\n")

    rendered = miras.compile(spec)
    for name, memory in rendered.memories.items():
        why = "; ".join(memory.form.evidence) if memory.form else memory.obstacle
        print(f"{name} is of the class {memory.family}: {why}\n")
    print("\n".join(rendered.text.splitlines()[:40]))
    print(f"… {rendered.text.count(chr(10))} lines, digest {rendered.digest[:16]}")


if __name__ == "__main__":
    main()
