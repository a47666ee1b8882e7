"""What each stage says about two memories, word for word: a change of the compiler shows as text.

`--update-golden` writes `golden/<stage>/<memory>.txt` anew; read the difference before keeping it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from miras_dsl.codegen.pipeline import CompiledMemory
from miras_dsl.codegen.plan.print_plan import print_plan
from miras_dsl.ir.notation.program_lines import print_program
from tests.meaning.derived import compiled

GOLDEN = Path(__file__).with_name("golden")


def law(memory: CompiledMemory) -> str:
    return "\n".join(memory.plan.interface.equations)


def code(memory: CompiledMemory) -> str:
    """The generated functions; of a large memory those of the forward walk only."""
    lead, _, _ = memory.text.partition(f"def {memory.prefix}_back_before")
    return memory.text if len(memory.text) < 12_000 else lead


STAGES: Mapping[str, Callable[[CompiledMemory], str]] = {
    "law": law,
    "rule": lambda memory: print_program(memory.rule.program),
    "plan": lambda memory: print_plan(memory.plan),
    "code": code,
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ["DeltaNet", "Yaad"])
def test_text_of_a_stage(name: str, stage: str, update_golden: bool) -> None:
    text = STAGES[stage](compiled(name)).strip("\n") + "\n"
    path = GOLDEN / stage / f"{name.lower()}.txt"
    if update_golden:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, "if it is meant: --update-golden"


def test_there_is_no_golden_text_that_nobody_checks() -> None:
    found = {str(path.relative_to(GOLDEN)) for path in GOLDEN.rglob("*.txt")}
    assert found == {f"{stage}/{name}.txt" for stage in STAGES for name in ("deltanet", "yaad")}
