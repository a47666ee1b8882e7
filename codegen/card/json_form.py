"""The card as JSON, and the schema that it follows."""

from __future__ import annotations

from dataclasses import asdict
from math import isinf

from .decays import half_life
from .types import Card

SCHEMA_NAME = "miras-card-1"


def card_json(card: Card) -> dict[str, object]:
    """The card as plain data; a number without a bound, and a half-life without an end, is null."""
    held = asdict(card)
    held["decays"] = [
        {
            "states": list(decay.states),
            "start": _pair(decay.start.low, decay.start.high),
            "range": _pair(decay.range.low, decay.range.high),
            "half_life_at_start": _pair(*map(half_life, (decay.start.low, decay.start.high))),
            "half_life_in_range": _pair(*map(half_life, (decay.range.low, decay.range.high))),
            "fades_within": decay.fades,
        }
        for decay in card.decays
    ]
    return {"schema": SCHEMA_NAME, **_plain(held)}  # type: ignore[dict-item]


def _pair(low: float, high: float) -> list[float]:
    return [low, high]


def _plain(value: object) -> object:
    match value:
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case float() if isinf(value):
            return None
        case _:
            return value


def _object(**properties: object) -> dict[str, object]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: object) -> dict[str, object]:
    return {"type": "array", "items": items}


TEXT, WHOLE = {"type": "string"}, {"type": "integer", "minimum": 0}
BOUND = {"type": ["number", "null"]}
ENDS = {"type": "array", "items": BOUND, "minItems": 2, "maxItems": 2}
WORK = _object(flops=WHOLE, formula=TEXT, bytes=WHOLE)

CARD_SCHEMA: dict[str, object] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    **_object(
        schema={"const": SCHEMA_NAME},
        name=TEXT,
        place=TEXT,
        family=TEXT,
        reasons=_list(TEXT),
        sizes={"type": "object", "additionalProperties": WHOLE},
        state=_list(
            _object(name=TEXT, axes=_list(TEXT), shape=_list(WHOLE), starts=TEXT, holds=TEXT)
        ),
        state_numbers=TEXT,
        state_bytes=WHOLE,
        gates=_list(
            _object(
                name=TEXT,
                weight={"type": ["string", "null"]},
                axes=_list(TEXT),
                written=TEXT,
                place=TEXT,
                low=BOUND,
                high=BOUND,
                start_low=BOUND,
                start_high=BOUND,
            )
        ),
        decays=_list(
            _object(
                states=_list(TEXT),
                start=ENDS,
                range=ENDS,
                half_life_at_start=ENDS,
                half_life_in_range=ENDS,
                fades_within={"type": ["integer", "null"]},
            )
        ),
        chunk=WHOLE,
        training=WORK,
        decoding=WORK,
        depth=_object(tokens=WHOLE, walks=WHOLE, rows=WHOLE, steps=WHOLE),
        cpu=TEXT,
        gpu=TEXT,
        warnings=_list(TEXT),
    ),
}
"""The JSON schema (draft 2020-12) of a card."""
