"""Protects photos in batches and writes files, with a report that grows with every batch.

No file is ever half-written: a batch's photos and its report are written beside their final places
and moved there once all are complete. A photo that the report already covers, with the same
settings, is not protected a second time.

- ``jobs``: the settings of a job, its outcomes, and checks of its options.
- ``pairing``: which files are photos, and which protected copy belongs to which original.
- ``ledger``: what the report in a folder covers, and what is left to do.
- ``workers``: threads that work on photos.
- ``protecting``: protecting photos, and measuring the copies.
"""

from cdmaa_jax.photos.jobs import (
    BATCH_SIZE,
    Entry,
    Job,
    Outcome,
    ProtectImages,
    check_labels,
    default_canonical_size,
)
from cdmaa_jax.photos.ledger import REPORT, make_report, read_job_report
from cdmaa_jax.photos.pairing import find_photos, match_photos
from cdmaa_jax.photos.protecting import (
    Partly,
    against,
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
    "Partly",
    "ProtectImages",
    "against",
    "check_labels",
    "default_canonical_size",
    "draw_picture",
    "evaluate_photos",
    "find_photos",
    "make_report",
    "match_photos",
    "protect_photos",
    "read_job_report",
]
