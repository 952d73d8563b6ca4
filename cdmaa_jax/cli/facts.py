"""The facts about this installation that ``cdmaa info`` prints."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from cdmaa_jax.cli.cache import folder_for_people
from cdmaa_jax.cli.output import printable


def gather_facts(names: Sequence[str] | None) -> dict[str, Any]:
    """The devices, versions, architectures and ensembles, in the form printed as JSON.

    Args:
      names: the one ensemble to tell about, as options name it; None for all named ensembles.
    """
    import jax

    from cdmaa_jax.evaluation.report import versions
    from cdmaa_jax.generators import ensembles, registry

    architectures = registry.ARCHITECTURES.values()
    every: dict[str, tuple[str, Sequence[str]]] = {
        name: (os.fspath(path), [name]) for name, path in ensembles.named_ensembles().items()
    }
    if names is not None:
        every = {"+".join(names): (", ".join(names), names)}
    return {
        "versions": versions(),
        "devices": [{"platform": d.platform, "kind": d.device_kind} for d in jax.devices()],
        "cache": folder_for_people(),
        "architectures": {entry.name: entry.title for entry in architectures},
        "ensembles": {
            name: {"path": path, "generators": _members(members)}
            for name, (path, members) in every.items()
        },
    }


def facts_as_text(facts: dict[str, Any]) -> str:
    """The same facts as lines of text."""
    lines = ["devices"]
    lines += [f"  {device['platform']}: {device['kind']}" for device in facts["devices"]]
    lines += ["versions", *(f"  {name} {version}" for name, version in facts["versions"].items())]
    lines += ["architectures", *(f"  {n} ({t})" for n, t in facts["architectures"].items())]
    lines += ["compiled programs are kept in", f"  {facts['cache']}", "ensembles"]
    for name, ensemble in facts["ensembles"].items():
        lines.append(f"  {name} ({ensemble['path']})")
        for member in ensemble["generators"]:
            edits = ", ".join(member["domains"])
            lines.append(f"    {member['name']}, {member['image_size']} px: {edits}")
            if member["attributes"]:
                lines.append(f"      labels: {', '.join(member['attributes'])}")
    lines += [] if facts["ensembles"] else ["  none in this installation"]
    return "\n".join(map(printable, lines))


def _members(names: Sequence[str]) -> list[dict[str, Any]]:
    """The generators of an ensemble, described without loading them."""
    from cdmaa_jax.generators.ensembles import read_ensemble_metadata

    return [
        {
            "name": record.name,
            "architecture": record.architecture,
            "image_size": record.image_size,
            "domains": list(record.domains),
            "attributes": list(getattr(record.config, "attributes", ())),
        }
        for record in read_ensemble_metadata(names)
    ]
