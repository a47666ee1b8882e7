"""Stage 8: text. Names, imports and the door to the templates."""
