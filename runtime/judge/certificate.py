"""The certificate: an implementation of a memory, measured against the oracle in every case."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from typing import Any

import torch

from miras_dsl.spec import MemorySpec, Write

from .bench import Bench, Implementation, Layer
from .cases import Case, covering
from .checks import CHECKS
from .half_life import HalfLife, half_lives
from .obstacles import shown
from .side_by_side import side_by_side
from .summary import lines
from .tolerance import Comparison

SCHEMA = "miras-certificate-3"
TOKEN_BY_TOKEN, SHORT = "token by token", 8
"""A form that goes token by token has no chunks; cases as for chunks of ``SHORT`` tokens tell as much."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a certificate: a check, the case, and a comparison that it made.

    default  whether the gates of the case are those of a new layer
    """

    check: str
    case: str
    result: Comparison
    default: bool = False


@dataclass(frozen=True, slots=True)
class Certificate:
    """All comparisons of one memory with the oracle.

    digest    of the meaning of its file
    derived   False if the update is given with `write` instead of derived from a loss
    expected  every (check, case, quantity) that must have a row; a missing one is not green
    way       what computed the memory: kernels, chunk form or token by token
    half_lives  of every weight that decays, with the gates of a new layer
    """

    spec: str
    digest: str
    dtype: str
    device: str
    derived: bool
    versions: Mapping[str, str]
    expected: tuple[tuple[str, str, str], ...]
    rows: tuple[Row, ...]
    way: str = ""
    half_lives: tuple[HalfLife, ...] = ()

    @property
    def missing(self) -> tuple[tuple[str, str, str], ...]:
        """The expected comparisons that have no row."""
        present = {(row.check, row.case, row.result.name) for row in self.rows}
        return tuple(wanted for wanted in self.expected if wanted not in present)

    @property
    def failures(self) -> tuple[Row, ...]:
        """The red rows: the code differs from the rule."""
        return tuple(row for row in self.rows if row.result.verdict == "red")

    @property
    def unjudged(self) -> tuple[Row, ...]:
        """The rows that are not judged: the rule is not finite there, or the type cannot hold it."""
        return tuple(row for row in self.rows if row.result.verdict == "not judged")

    @property
    def unjudged_at_default(self) -> tuple[Row, ...]:
        """Those of them in cases whose gates are those of a new layer."""
        return tuple(row for row in self.unjudged if row.default)

    @property
    def worst(self) -> Row | None:
        """Of the red rows, the one with the largest error; None if there is none."""
        return max(self.failures, key=lambda row: _badness(row.result), default=None)

    @property
    def red(self) -> bool:
        """Whether a comparison is red, or an expected one was not made."""
        return bool(self.failures or self.missing) or not self.expected

    @property
    def green(self) -> bool:
        """Whether every expected comparison was made, none is red, and all at the default gates were
        judged."""
        return not self.red and not self.unjudged_at_default

    def to_json(self) -> str:
        """The certificate as JSON of the schema `SCHEMA`; what is infinite is the word "inf"."""
        held = {"schema": SCHEMA, "green": self.green, "red": self.red, **asdict(self)}
        return json.dumps(_finite(held), indent=1, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Certificate:
        """Read what `to_json` wrote; whether it is green is computed from the rows.

        Raises ValueError for another schema.
        """
        held = json.loads(text)
        if held.pop("schema", None) != SCHEMA:
            raise ValueError(f"this is not a certificate of schema {SCHEMA}")
        for computed in ("green", "red", "warnings"):
            held.pop(computed, None)
        rows = tuple(
            Row(**{**row, "result": Comparison(**_numbers(row["result"]))})
            for row in held.pop("rows")
        )
        lives = tuple(HalfLife(**_numbers(life)) for life in held.pop("half_lives"))
        expected = tuple((check, case, name) for check, case, name in held.pop("expected"))
        return Certificate(rows=rows, expected=expected, half_lives=lives, **held)

    def __str__(self) -> str:
        """The worst comparison of each check and case, what was not judged, and the verdict."""
        said = (self.spec, self.way, self.dtype, self.device, _versions(self.versions))
        given = () if self.derived else ("update given with `write`, not derived from a loss",)
        return "\n".join((" · ".join(word for word in said if word), *given, *lines(self)))


def _finite(held: object) -> object:
    """JSON has no number for what is infinite."""
    if isinstance(held, dict):
        return {name: _finite(value) for name, value in held.items()}
    if isinstance(held, list | tuple):
        return [_finite(value) for value in held]
    return str(held) if isinstance(held, float) and not isfinite(held) else held


def _numbers(held: Mapping[str, object]) -> dict[str, Any]:
    return {
        n: float(v) if isinstance(v, str) and v in ("inf", "nan") else v for n, v in held.items()
    }


def _badness(result: Comparison) -> float:
    share = result.error / result.allowed if result.allowed else float(result.error > 0)
    return max(share, result.rms / max(result.rms_allowed, 1e-30))


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _installed() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    with suppress(PackageNotFoundError):
        found["triton"] = version("triton")
    return found


def certify(
    spec: MemorySpec,
    implementation: Callable[[Mapping[str, int]], Implementation],
    *,
    digest: str = "",
    way: str = "",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    cases: Sequence[Case] | None = None,
    chunk: int = 64,
    seed: int = 0,
    layer: Layer | None = None,
    workers: int = 1,
) -> Certificate:
    """Compare an implementation of a memory with the oracle, in all checks and cases.

    implementation  from the size parameters of the memory to the memory as a function
    digest, way     to be recorded
    cases           None: `covering(chunk)`
    chunk           tokens of a chunk of the form under test; lengths of cases lie around its multiples
    layer           the memory as a layer, whose gates are then judged too
    workers         processes that judge cases side by side, on a CPU
    """
    if spec.algorithm.anchored is not None:
        chunk = spec.algorithm.anchored.block
    elif way == TOKEN_BY_TOKEN:
        chunk = SHORT
    chosen = covering(chunk) if cases is None else tuple(cases)
    by_token = way == TOKEN_BY_TOKEN
    bench = Bench(spec, implementation, dtype, device, seed, chunk, layer, by_token)
    rows, expected = [], []

    def judged(number: int) -> list[tuple[str, list[Comparison]]]:
        case = chosen[number]
        made = ((check, compare) for check, compare in CHECKS.items() if check in case.checks)
        return [(check, list(compare(bench, case) or ())) for check, compare in made]

    # The longest case first, so that no process is left with it at the end.
    order = sorted(range(len(chosen)), key=lambda n: -sum(chosen[n].lengths))
    found = side_by_side(judged, order, workers if device == "cpu" else 1)
    for number, case in enumerate(chosen):
        for check, results in found[number]:
            for result in results:
                named = replace(result, name=shown(spec, result.name))
                expected.append((check, case.name, named.name))
                rows.append(Row(check, case.name, named, case.default))
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    return Certificate(
        spec=spec.name,
        digest=digest,
        dtype=str(dtype).removeprefix("torch."),
        device=f"{device} ({name})",
        derived=not any(isinstance(term, Write) for term in spec.terms),
        versions=_installed(),
        expected=tuple(expected),
        rows=tuple(rows),
        way=way,
        half_lives=half_lives(spec, layer),
    )
