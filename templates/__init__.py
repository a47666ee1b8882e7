"""The frames of generated code: loops and layout, no arithmetic."""
