"""The papers' claims as grids of runs: ``python -m studies NAME``; one YAML file per claim lies beside this one."""
