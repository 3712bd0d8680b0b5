"""The models in the box: small trained checkpoints that come with mmerc, each with its card (README.md)."""

from importlib import resources
from pathlib import Path
from typing import Final

SHIPPED: Final = {
    "meld-text": "DF-ERC on the text of MELD, seven emotions; reads the whole conversation",
    "meld-text-live": "the same, looking back only: for conversations that are still going on",
}
DEFAULT: Final = "meld-text"


def located(name: str | Path) -> Path:
    """Return the folder of a shipped model, or what was given when it is a path of its own.

    A folder that has the name of a shipped model goes before the model.
    """
    path = Path(name)
    if str(name) in SHIPPED and not path.exists():
        return Path(str(resources.files(__name__))) / str(name)
    return path
