"""The command ``cdmaa``: arguments and printing, nothing else.

Figures go to stdout, everything else to stderr. The exit status is 0 if all went well, 1 if
anything failed, 2 for a wrong command line, 128 plus the signal number if interrupted.

Modules that import JAX are imported inside functions, so that ``--help`` is instant.
"""

from cdmaa_jax.cli.output import ensure_stderr, print_any_name, printable
from cdmaa_jax.cli.process import main

__all__ = ["ensure_stderr", "main", "print_any_name", "printable"]
