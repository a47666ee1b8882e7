"""Compiles the kernels of some memories for sm_90, as the launcher would; prints JSON lines."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from miras_dsl.codegen.derive.update import update_rule
from miras_dsl.codegen.model.build import build_model
from miras_dsl.codegen.plan.token_kernels import token_plan
from miras_dsl.runtime.kernels.cross_compile import compiled
from miras_dsl.runtime.kernels.launch_config import configure_launch
from miras_dsl.runtime.load.kernel_modules import kernels_of
from tests.kernels.kernel_cases import memory_named


def main(size: int, names: list[str]) -> None:
    for name in names:
        rule = update_rule(build_model(memory_named(name)))
        kernels = kernels_of(rule)
        axes = {axis for _, named in (*kernels.tokens, *kernels.states) for axis in named}
        launch = configure_launch(kernels, dict.fromkeys(axes, size), 2048)
        for way, usage in zip(("forward", "backward"), compiled(kernels, launch), strict=True):
            why = "; ".join(token_plan(rule, name).why)
            print(json.dumps({"memory": name, "way": way, "why": why, **asdict(usage)}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
