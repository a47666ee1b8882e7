"""The card of a memory: what it is, holds and costs, as data, text and JSON."""
