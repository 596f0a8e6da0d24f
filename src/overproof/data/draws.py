"""Every random draw is a function of where it happens, so a resumed run draws what an uninterrupted one would."""

from hashlib import blake2b

import torch


def seed_at(seed: int, *place: str | int) -> int:
    """Return a 63-bit seed for a place such as ``("step", epoch, batch, rank)``; equal places give equal seeds."""
    text = "/".join(str(part) for part in (seed, *place))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_at(device: torch.device, seed: int, *place: str | int) -> torch.Generator:
    """Return a fresh generator on the device, seeded for a place."""
    generator = torch.Generator(device)
    generator.manual_seed(seed_at(seed, *place))
    return generator
