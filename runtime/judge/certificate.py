"""The certificate: an implementation of a memory, measured against the oracle in every case."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from miras_dsl.spec import MemorySpec, Write

from .cases import Case, covering
from .checks import CHECKS, Bench, Implementation
from .tolerance import Comparison

SCHEMA = "miras-certificate-2"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a certificate: a check, the case, and a comparison that it made."""

    check: str
    case: str
    result: Comparison


@dataclass(frozen=True, slots=True)
class Certificate:
    """All comparisons of one memory with the oracle.

    digest    of the meaning of its file
    derived   False if the update is given with `write` instead of derived from a loss
    expected  every (check, case, quantity) that must have a row; a missing one is not green
    way       what computed the memory: kernels, chunk form or token by token
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

    @property
    def missing(self) -> tuple[tuple[str, str, str], ...]:
        """The expected comparisons that have no row."""
        present = {(row.check, row.case, row.result.name) for row in self.rows}
        return tuple(wanted for wanted in self.expected if wanted not in present)

    @property
    def failures(self) -> tuple[Row, ...]:
        """The rows that are not green."""
        return tuple(row for row in self.rows if row.result.verdict != "green")

    @property
    def worst(self) -> Row | None:
        """Of the rows that are not green, the one with the largest error; None if all are green."""
        return max(self.failures, key=lambda row: _badness(row.result), default=None)

    @property
    def green(self) -> bool:
        """Whether every expected comparison was made and is green."""
        return bool(self.expected) and not self.missing and not self.failures

    def to_json(self) -> str:
        """The certificate as JSON of the schema `SCHEMA`."""
        return json.dumps({"schema": SCHEMA, "green": self.green, **asdict(self)}, indent=1)

    @staticmethod
    def from_json(text: str) -> Certificate:
        """Read what `to_json` wrote; whether it is green is computed from the rows.

        Raises ValueError for another schema.
        """
        held = json.loads(text)
        if held.pop("schema", None) != SCHEMA:
            raise ValueError(f"this is not a certificate of schema {SCHEMA}")
        held.pop("green")
        held.pop("warnings", None)
        rows = tuple(
            Row(row["check"], row["case"], Comparison(**row["result"])) for row in held.pop("rows")
        )
        expected = tuple((check, case, name) for check, case, name in held.pop("expected"))
        return Certificate(rows=rows, expected=expected, **held)

    def __str__(self) -> str:
        """The worst comparison of each check and case, and the verdict."""
        said = (self.spec, self.way, self.dtype, self.device, _versions(self.versions))
        lines = [" · ".join(word for word in said if word)]
        if not self.derived:
            lines.append("update given with `write`, not derived from a loss")
        lines.append(f"{'check':<12}{'case':<26}{'worst':<18}{'error':>10}{'allowed':>10}  verdict")
        missing = {(check, case): name for check, case, name in self.missing}
        for check, case in dict.fromkeys((check, case) for check, case, _ in self.expected):
            if (check, case) in missing:
                name = missing[check, case]
                lines.append(f"{check:<12}{case:<26}{name:<18}{'':>20}  MISSING")
                continue
            rows = [r.result for r in self.rows if (r.check, r.case) == (check, case)]
            worst = max(rows, key=_badness)
            lines.append(
                f"{check:<12}{case:<26}{worst.name:<18}{worst.error:>10.1e}{worst.allowed:>10.1e}"
                f"  {worst.verdict}"
            )
        bad = len(self.failures) + len(self.missing)
        lines.append(
            f"green: {len(self.rows)} comparisons"
            if self.green
            else f"RED: {bad} of {len(self.expected)} comparisons failed"
        )
        return "\n".join(lines)


def _badness(result: Comparison) -> tuple[bool, float]:
    share = result.error / result.allowed if result.allowed else float(result.error > 0)
    return result.verdict != "green", max(share, result.rms / max(result.rms_allowed, 1e-30))


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
) -> Certificate:
    """Compare an implementation of a memory with the oracle, in all checks and cases.

    implementation  from the size parameters of the memory to the memory as a function
    digest, way     to be recorded
    cases           None: `covering(chunk)`
    chunk           tokens of a chunk of the form under test; lengths of cases lie around its multiples
    """
    if spec.algorithm.anchored is not None:
        chunk = spec.algorithm.anchored.block
    chosen = covering(chunk) if cases is None else tuple(cases)
    bench = Bench(spec, implementation, dtype, device, seed)
    rows, expected = [], []
    for case in chosen:
        for check, compare in CHECKS.items():
            found = compare(bench, case)
            if found is None:
                continue
            expected += [(check, case.name, result.name) for result in found]
            rows += [Row(check, case.name, result) for result in found]
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
    )
