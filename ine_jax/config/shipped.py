"""The config files that ship with the package: `configs/` of the repository, which a wheel holds inside the package."""

from pathlib import Path

from ine_jax.errors import InputError

PACKAGE = Path(__file__).parent.parent
SUFFIXES = (".yaml", ".yml", ".jsonl", ".sbatch")


def folder() -> Path:
    """The folder of the files. InputError for an installation without them."""
    found = next((place for place in (PACKAGE / "configs", PACKAGE.parent / "configs") if place.is_dir()), None)
    if found is None:
        raise InputError("the config files are not installed", "a wheel or a checkout", "install the package again")
    return found


def files() -> dict[str, Path]:
    """Name relative to the folder -> file."""
    root = folder()
    found = sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES)
    return {path.relative_to(root).as_posix(): path for path in found}


def chosen(names: tuple[str, ...]) -> dict[str, Path]:
    """The files of these names, or in the folders of these names; all for no name. InputError for an unknown one."""
    found, known = {}, files()
    for name in names:
        inside = {key: path for key, path in known.items() if key == name or key.startswith(f"{name.rstrip('/')}/")}
        if not inside:
            folders = sorted({key.split("/")[0] for key in known})
            raise InputError(
                f"config {name!r}", f"a file of `ine configs`, or one of {', '.join(folders)}", "see the list"
            )
        found.update(inside)
    return found if names else known
