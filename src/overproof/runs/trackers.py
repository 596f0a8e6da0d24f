"""Trackers: what each epoch found, told to TensorBoard, Weights & Biases or MLflow through accelerate's trackers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from overproof.errors import InputError
from overproof.recipe import Recipe, leaves, plain

Tell = Callable[[Mapping[str, Any]], None]


@contextmanager
def track(recipe: Recipe, folder: Path, *, since: int) -> Iterator[Tell]:
    """Start the recipe's trackers, give a function that takes an epoch's record, and finish them.

    TensorBoard writes into ``folder/tensorboard``, where steps after ``since`` finished epochs are replaced; the others
    begin a run named like the recipe in a project ``overproof``. Raises ``InputError`` where a tracker's package is not
    installed, or where it cannot be started.
    """
    check_trackers(recipe)
    trackers = [_start(name, recipe, folder, since) for name in recipe.trackers]
    settings = {path: str(value) for path, value in leaves(plain(recipe))}
    try:
        for tracker in trackers:
            tracker.store_init_configuration(settings)

        def tell(record: Mapping[str, Any]) -> None:
            for tracker in trackers:
                tracker.log(figures(record), step=record["epoch"])

        yield tell
    finally:
        for tracker in trackers:
            tracker.finish()


def figures(record: Mapping[str, Any]) -> dict[str, float]:
    """Return what an epoch's record holds to be drawn: terms, validation if any, learning rate, seconds."""
    validation = record["validation"] or {}
    return {
        **{f"terms/{name}": value for name, value in record["terms"].items()},
        **{f"validation/{name}": validation[name] for name in ("clean", "robust") if name in validation},
        "learning_rate": record["learning_rate"],
        "seconds": record["seconds"],
    }


def check_trackers(recipe: Recipe) -> None:
    """Raise ``InputError`` where a tracker's package is not installed."""
    for name in recipe.trackers:
        if find_spec(name) is None:
            raise InputError(f"trackers: {name!r} is not installed; pip install {name}, or leave it out of trackers")


def _start(name: str, recipe: Recipe, folder: Path, since: int) -> Any:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    choices: dict[str, tuple[str, dict[str, Any]]] = {
        "tensorboard": ("tensorboard", {"logging_dir": folder, "purge_step": since + 1}),
        "wandb": ("overproof", {"name": recipe.name}),
        "mlflow": ("overproof", {"run_name": recipe.name}),
    }
    project, options = choices[name]
    try:
        tracker = LOGGER_TYPE_TO_CLASS[name](project, **options)
        tracker.start()
    except Exception as problem:  # whatever a service says: no account, no network, no disk space
        raise InputError(f"trackers: {name!r} cannot be started ({problem})") from problem
    return tracker
