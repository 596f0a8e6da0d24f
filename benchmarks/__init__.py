"""Every speed claim of the project as a ratio, measured in one process, alternating."""
