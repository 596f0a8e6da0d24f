"""What processes must agree on before they train together: recipe, images, teachers, and a batch that can be shared."""

from collections.abc import Mapping

from overproof.data.images import Labelled
from overproof.errors import InputError
from overproof.plain_yaml import parse_yaml
from overproof.processes import Processes
from overproof.recipe import Recipe, differences, dump


def check_same_recipe(recipe: Recipe, processes: Processes) -> None:
    """Raise ``InputError`` where processes were started with different recipes."""
    text = processes.from_leader(lambda: dump(recipe))

    def check() -> None:
        if changed := differences(parse_yaml(text, where="recipe"), recipe):
            raise InputError(f"its recipe is not the first process's ({'; '.join(changed)}); start all with the same")

    processes.together(check)


def check_same_images(images: Labelled, processes: Processes) -> None:
    """Raise ``InputError`` where processes read different training images; reads every pixel if there are several."""
    if processes.count == 1:
        return
    count, digest = processes.from_leader(lambda: (len(images), images.digest))

    def check() -> None:
        if len(images) != count:
            raise InputError(
                f"it reads {len(images)} training images and the first process {count}; all must read the same set"
            )
        if images.digest != digest:
            raise InputError("its training images are not the first process's; all must read the same set")

    processes.together(check)


def check_same_teachers(digests: Mapping[str, str], processes: Processes) -> None:
    """Raise ``InputError`` where processes read different teachers."""
    first = processes.from_leader(lambda: digests)

    def check() -> None:
        if other := [role for role, digest in digests.items() if digest != first[role]]:
            raise InputError(f"its teacher {other[0]!r} is not the first process's; all must read the same network")

    processes.together(check)


def check_shareable(images: int, batch: int, processes: Processes) -> None:
    """Raise ``InputError`` where a batch cannot be dealt to the processes: unevenly, or the last one not to all."""
    if batch % processes.count:
        fits = batch // processes.count * processes.count or processes.count
        raise InputError(
            f"{processes.count} processes cannot share a batch of {batch} evenly; use training.batch={fits}, or a "
            "number of processes that divides it"
        )
    if 0 < images % batch < processes.count:
        raise InputError(
            f"the last batch of an epoch has {images % batch} of the {images} training images, fewer than the "
            f"{processes.count} processes; use another training.batch or fewer processes"
        )
