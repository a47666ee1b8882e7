"""The only door to a template: every slot is used, every hole is filled."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, meta


@cache
def environment() -> Environment:
    """The templates of the package; a misspelt name inside one is an error, not an empty string."""
    return Environment(
        loader=PackageLoader("miras_dsl.templates", package_path=""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the text is Python, and only identifiers and numbers get here
    )


@cache
def holes(template: str) -> frozenset[str]:
    """The names of the slots that a template asks for."""
    frames = environment()
    assert frames.loader is not None
    source, _, _ = frames.loader.get_source(frames, template)
    return frozenset(meta.find_undeclared_variables(frames.parse(source)))


def render(template: str, slots: Mapping[str, object]) -> str:
    """Fill ``template``; LookupError for a slot too many, which is as much a bug as one too few."""
    wanted = holes(template)
    if wanted != slots.keys():
        raise LookupError(
            f"{template}: missing slots {sorted(wanted - slots.keys())}, "
            f"unused slots {sorted(slots.keys() - wanted)}"
        )
    return environment().get_template(template).render(slots)
