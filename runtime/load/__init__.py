"""From text to a loaded, cached, certified module."""
