"""Photos from files and back, and the views of them that generators see."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdmaa_jax.images import views as views
else:

    def __getattr__(name: str) -> Any:
        """Imports ``views``, which needs JAX, on first use."""
        if name != "views":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return importlib.import_module(f"{__name__}.{name}")
