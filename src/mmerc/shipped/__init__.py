"""What comes with mmerc: small trained models, each with its card (README.md), configs, and a chat."""

from importlib import resources
from pathlib import Path
from typing import Final

from mmerc.errors import ConfigError

SHIPPED: Final = {
    "meld-text": "DF-ERC on the text of MELD, seven emotions; reads the whole conversation",
    "meld-text-live": "the same, looking back only: for conversations that are still going on",
}
DEFAULT: Final = "meld-text"

_HERE: Final = Path(str(resources.files(__name__)))
CHAT: Final = _HERE / "chat.txt"
CONFIGS: Final = _HERE / "configs"


def located(name: str | Path) -> Path:
    """Return the folder of a shipped model, or what was given when it is a path of its own.

    A folder that has the name of a shipped model goes before the model.
    """
    path = Path(name)
    return _HERE / path if str(name) in SHIPPED and not path.exists() else path


def located_config(name: str | Path) -> Path:
    """Return the file of a shipped config, such as `df-erc-hazumi`, or what was given when it is a file.

    Raises:
        ConfigError: it is neither.
    """
    path = Path(name)
    if path.exists():
        return path
    shipped = {config.stem: config for config in sorted(CONFIGS.glob("*.yaml"))}
    if str(name) not in shipped:
        raise ConfigError(
            f"{name} does not exist: expected a YAML file, or one of the configs that come with mmerc: "
            f"{', '.join(shipped)}"
        )
    return shipped[str(name)]
