"""Facts about programs that plans rest on: precision, padding, dependent steps."""
