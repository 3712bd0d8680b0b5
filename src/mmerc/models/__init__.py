"""The networks. One model, one file; all take a `Batch` and return an `Output`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmerc.models.registry import MODELS, Entry, build_network, choose_modalities, find, resolve

__all__ = ["MODELS", "Entry", "build_network", "choose_modalities", "find", "resolve"]


def __getattr__(name: str) -> Any:
    # On first use only, so that whoever imports one network does not load them all.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mmerc.models import registry

    return getattr(registry, name)
