"""Reading the derivation: every stage from the loss to the generated module prints.

python examples/03_read_the_derivation.py [SPEC]
"""

import sys

import miras_dsl as miras


def main() -> None:
    spec = sys.argv[1] if len(sys.argv) > 1 else "deltanet"
    rendered = miras.compile(spec)
    for name, stage in rendered.stages.items():
        print(f"--- {name} " + "-" * (70 - len(name)))
        print(stage)
    print("--- generated " + "-" * 61)
    print("\n".join(rendered.text.splitlines()[:40]))
    print(f"… {rendered.text.count(chr(10))} lines, digest {rendered.digest[:16]}")


if __name__ == "__main__":
    main()
