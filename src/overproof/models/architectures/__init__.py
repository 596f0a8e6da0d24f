"""Architectures: one file per family, and the names the field has for them."""
