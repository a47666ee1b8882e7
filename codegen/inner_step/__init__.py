"""Steps that are solved rather than written down: links, penalties, implicit steps."""
