"""Images of a cell's items from a generator of batches, in the order of the items."""

from collections.abc import Sequence

from ine_jax.evaluation import Cell, Item, Plan, Unit
from ine_jax.evaluation.packing import Batches, Made, Wanted
from ine_jax.pipeline.packing import Packer


def made(generator: Batches, cell: Cell, items: Sequence[Item], plan: Plan) -> list[Made]:
    """Generate the items of one block, packed as an evaluation packs them."""
    packer, found = Packer[Wanted](), dict[int, Made]()
    unit = Unit(0, 0, "attack", 0, len(items))

    def run(rows: Sequence[Wanted]) -> None:
        if rows:
            images = generator.start(rows, plan)()
            found.update(zip([row.place for row in rows], images, strict=True))

    for place, item in enumerate(items):
        wanted = Wanted(unit, place, cell, item, place)
        group = generator.group(wanted, plan)
        run(packer.add(group, wanted, generator.size))
    while (group_left := packer.oldest()) is not None:
        run(packer.take(group_left, generator.size))
    return [found[place] for place in range(len(items))]
