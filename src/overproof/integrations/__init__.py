"""Other people's training loops around a method; each needs the package it is for."""

__all__: list[str] = []
