"""What methods with labels share: the check of how much a label is smoothed."""


def check_label_smoothing(label_smoothing: float) -> None:
    """Raise ``ValueError`` where the share of the label that the uniform distribution takes is not in [0, 1)."""
    if not 0 <= label_smoothing < 1:
        raise ValueError(
            f"label_smoothing is the share that the uniform distribution takes, in [0, 1), got {label_smoothing}"
        )
