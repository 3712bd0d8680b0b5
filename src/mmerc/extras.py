"""Packages that only some of mmerc needs: one that cannot be imported says why, and what to install."""

from collections.abc import Iterator
from contextlib import contextmanager

from mmerc.errors import ConfigError, MmercError


@contextmanager
def needed(purpose: str, install: str, error: type[MmercError] = ConfigError) -> Iterator[None]:
    """Import packages in the body of a `with`, and nothing else.

        with needed("an export", "mmerc[onnx]"):
            import onnx

    Args:
        purpose: what needs them; the message starts with it
        install: what pip is to install
        error: what to raise

    Raises:
        error: a package is not installed; or it is, and cannot be loaded, for the reason that is told.
    """
    try:
        yield
    except ImportError as failure:
        name = failure.name or ""
        # A name with a dot is a module of a package that is there. Every shell knows double quotes.
        if isinstance(failure, ModuleNotFoundError) and name and "." not in name:
            raise error(
                f'{purpose} needs the package {name}, which is not installed: pip install "{install}"'
            ) from None
        package = f"the package {name.partition('.')[0]}" if name else "a package"
        raise error(
            f"{purpose} needs {package}, which is installed but cannot be loaded ({failure}): "
            f'pip install --upgrade "{install}"'
        ) from failure
