"""Photos from files and back, and the views of them that generators see."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdmaa_jax.images import views as views
