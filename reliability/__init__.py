"""What happens to overproof under strange files, kills and faults, measured; see docs/reliability.md."""
