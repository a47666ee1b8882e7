"""Certificates for every memory of a file: the module that `load` imports under the judge."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch

from miras_dsl.codegen.digest import digest_of
from miras_dsl.failures import Unusable
from miras_dsl.spec import FileSpec

from .build import implementations
from .certificate import Certificate, certify

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def prove(
    spec: FileSpec,
    *,
    only: Collection[str] = (),
    dtype: str = "float32",
    device: str = "cpu",
) -> dict[str, Certificate]:
    """One certificate per memory, by name; ``only`` names some of them.

    Raises Unusable for a name that the file does not hold.
    """
    for name in only:
        if name not in spec.memories:
            raise Unusable(f"there is no memory {name}; the file holds {', '.join(spec.memories)}")
    digest, judged = digest_of(spec), implementations(spec)
    with _one_thread():
        return {
            name: certify(
                memory,
                judged[name],
                digest=digest,
                dtype=DTYPES[dtype],
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
