"""Warnings about specs that mean something, but hardly what was intended."""
