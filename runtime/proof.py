"""Certificates for every memory of a file: the generated code under the judge."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch

from miras_dsl.codegen.digest import digest_of
from miras_dsl.dtypes import Dtype
from miras_dsl.failures import Unusable
from miras_dsl.spec import FileSpec

from .build import implementation
from .certificate import Certificate, certify


def prove(
    spec: FileSpec,
    *,
    only: Collection[str] = (),
    dtype: str = "float32",
    device: str = "cpu",
) -> dict[str, Certificate]:
    """One certificate per memory, by name; ``only`` names some of them.

    Raises Unusable for a name that the file does not hold, ValueError for a type that is none of `Dtype`.
    """
    for name in only:
        if name not in spec.memories:
            raise Unusable(f"there is no memory {name}; the file holds {', '.join(spec.memories)}")
    kind = getattr(torch, Dtype(dtype))
    digest = digest_of(spec)
    with _one_thread():
        return {
            name: certify(
                memory,
                lambda sizes, memory=memory: implementation(memory, sizes),
                digest=digest,
                dtype=kind,
                device=device,
            )
            for name, memory in spec.memories.items()
            if not only or name in only
        }


@contextmanager
def _one_thread() -> Iterator[None]:
    """torch on one thread: the oracle is a long chain of small operations, and threads that wait
    for each other after every one of them cost more than they share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
