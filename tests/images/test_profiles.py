"""Colour profiles keep their colours and lose what is private."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from cdmaa_jax.images.profiles import colours_of

PRIVATE = {b"mmod": b"mmod\0\0\0\0serial C02XYZ", b"dscm": b"Alice's display", b"vcgt": bytes(20)}


def created(space):
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()


def srgb():
    return created("sRGB")


def with_tags(profile, tags):
    """A profile with more tags, in front of its own."""
    count, more = int.from_bytes(profile[128:132]), 12 * len(tags)
    moved, body = b"", profile[132 + 12 * count :]
    for i in range(count):
        name, at, size = struct.unpack_from(">4sII", profile, 132 + 12 * i)
        moved += struct.pack(">4sII", name, at + more, size)
    table, end = b"", len(profile) + more
    for name, data in tags.items():
        table += struct.pack(">4sII", name, end, len(data))
        body, end = body + data + bytes(-len(data) % 4), end + len(data) + -len(data) % 4
    head = struct.pack(">I", end) + profile[4:128] + struct.pack(">I", count + len(tags))
    return head + table + moved + body


def in_srgb(profile, levels):
    source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(Image.fromarray(levels), source, srgb))


@pytest.mark.parametrize("space", ["sRGB", "LAB", "XYZ"])
def test_profiles_without_anything_private_are_left_as_they_are(space):
    assert colours_of(created(space)) == created(space)


def test_colours_stay_the_same_and_what_is_private_is_gone():
    swapped = srgb().replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ").replace(b"____", b"gXYZ")
    private = with_tags(swapped, PRIVATE)
    private = private[:48] + b"APPLC02X" + private[56:84] + b"I" * 44 + private[128:] + b"owner"
    public = colours_of(private)
    assert int.from_bytes(public[:4]) == len(public) == len(swapped)
    for text in (b"mmod", b"C02X", b"Alice", b"vcgt", b"owner", b"IIII"):
        assert text in private and text not in public
    levels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    seen = in_srgb(public, levels)
    np.testing.assert_array_equal(seen, in_srgb(private, levels))
    assert (seen != levels).any() and colours_of(public) == public


@pytest.mark.parametrize("damage", [
    lambda profile: profile[:128],
    lambda profile: profile[:200],
    lambda profile: profile[:400],
    lambda profile: profile[:128] + b"GPS 52.1 4.9 serial C02XYZ owner Alice",
    lambda profile: profile[:128] + bytes(4),
    lambda profile: with_tags(profile[:128] + bytes(4), PRIVATE),
])  # fmt: skip
def test_damaged_profiles_are_none(damage):
    assert colours_of(damage(srgb())) is None
