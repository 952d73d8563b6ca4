"""``python -m cdmaa_jax`` is the command ``cdmaa``."""

from cdmaa_jax.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
