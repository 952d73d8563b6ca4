"""Photos to batches to the attack to files, with a report that grows with every batch.

No file is ever half-written: the photos of a batch and the report on them wait beside their places
until all of them are whole. A photo that the report already covers, with the same settings, is not
protected a second time.

- ``jobs``: what to do with photos, what became of them, and the checks of both.
- ``pairing``: which files are photos, and which protected copy belongs to which original.
- ``ledger``: what the report in a folder covers, and what is left to do.
- ``protecting``: protecting photos, and measuring the copies.
"""

from cdmaa_jax.photos.jobs import (
    BATCH_SIZE,
    Entry,
    Job,
    Outcome,
    ProtectImages,
    check_labels,
    check_positive,
    default_canonical_size,
)
from cdmaa_jax.photos.ledger import REPORT, make_report, read_job_report
from cdmaa_jax.photos.pairing import find_photos, match_photos
from cdmaa_jax.photos.protecting import (
    against,
    devices_for,
    draw_picture,
    evaluate_photos,
    protect_photos,
)

__all__ = [
    "BATCH_SIZE",
    "REPORT",
    "Entry",
    "Job",
    "Outcome",
    "ProtectImages",
    "against",
    "check_labels",
    "check_positive",
    "default_canonical_size",
    "devices_for",
    "draw_picture",
    "evaluate_photos",
    "find_photos",
    "make_report",
    "match_photos",
    "protect_photos",
    "read_job_report",
]
