"""Convolutions in every form against XLA's own, in value and gradient, in float64 and float32."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdmaa_jax import processor, tracing
from cdmaa_jax.generators import convolutions, winograd
from cdmaa_jax.scheduling import later, materialize

few = settings(max_examples=10)
SHAPES = [  # height, width, large and small channels, taps, stride, padding
    (9, 7, 3, 5, 7, 1, 3),
    (8, 8, 5, 3, 3, 1, 0),  # to few channels, from few: planes
    (8, 9, 36, 3, 3, 1, 1),  # from many
    (8, 9, 36, 3, 3, 1, 0),
    (6, 5, 2, 4, 1, 1, 0),
    (8, 6, 3, 8, 4, 2, 1),
    (4, 4, 3, 20, 4, 2, 1),  # a kernel larger than the image: matrix products
    (8, 8, 2, 64, 4, 2, 1),
    (16, 16, 2, 256, 4, 2, 1),  # the same with more pixels
    (9, 8, 3, 4, 3, 2, 1),
    (10, 10, 3, 4, 3, 2, 0),
    (7, 7, 2, 3, 3, 3, 1),
    (4, 5, 64, 64, 3, 1, 1),  # Winograd, tiles of 2
    (24, 26, 32, 128, 4, 2, 1),  # Winograd on blocks, one way
    (24, 26, 64, 68, 3, 1, 1),  # tiles of 4
    (14, 16, 64, 64, 3, 1, 0),
    (26, 24, 64, 256, 4, 2, 1),  # Winograd on blocks, both ways
]


def plain(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def normal(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape)) for shape in shapes]


def images_and_kernel(shape, seed=0):
    height, width, large, small, taps, *_ = shape
    return normal(seed, (2, height, width, large), (taps, taps, large, small))


@functools.partial(jax.jit, static_argnums=0)
def value_and_slopes(function, x, kernel, seed):
    """A function's value, a random cotangent, and the resulting gradients of its arguments."""
    value, pull = jax.vjp(function, x, kernel)
    slope = jax.random.normal(jax.random.key(seed), value.shape, value.dtype)
    return value, slope, pull(slope)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gather_is_a_convolution_and_scatter_its_transpose(shape):
    options = dict(zip(("stride", "padding"), shape[-2:], strict=True))
    with jax.enable_x64(True):
        x, kernel = images_and_kernel(shape)
        value, slope, slopes = value_and_slopes(functools.partial(plain, **options), x, kernel, 1)
        ours = value_and_slopes(functools.partial(convolutions.gather, **options), x, kernel, 1)
        np.testing.assert_allclose(ours[0], value, rtol=0, atol=1e-11)
        for mine, theirs in zip(ours[2], slopes, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-11)
        scatter = functools.partial(convolutions.scatter, size=x.shape[1:3], **options)
        back = jax.jit(scatter)(slope, kernel)
        np.testing.assert_allclose(back, slopes[0], rtol=0, atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scatter_has_its_own_gradients(shape):
    stride, padding = shape[-2:]
    with jax.enable_x64(True):
        x, kernel = images_and_kernel(shape)
        like = jax.eval_shape(functools.partial(plain, stride=stride, padding=padding), x, kernel)
        (y,) = normal(2, like.shape)

        def transposed(y, kernel):
            small = functools.partial(plain, kernel=kernel, stride=stride, padding=padding)
            return jax.linear_transpose(small, x)(y)[0]

        def ours(y, kernel):
            return convolutions.scatter(y, kernel, stride, padding, x.shape[1:3])

        value, _, slopes = value_and_slopes(transposed, y, kernel, 3)
        mine, _, slopes_of_mine = value_and_slopes(ours, y, kernel, 3)
        np.testing.assert_allclose(mine, value, rtol=0, atol=1e-11)
        for a, b in zip(slopes_of_mine, slopes, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES[-5:], ids=str)
def test_float32_rounds_little_more_than_a_plain_convolution(shape):
    stride, padding = shape[-2:]
    with jax.enable_x64(True):
        x, kernel = images_and_kernel(shape, seed=3)
        exact = plain(x, kernel, stride, padding)
        x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
        ours = jax.jit(convolutions.gather, static_argnums=(2, 3))(x, kernel, stride, padding)
        error = jnp.abs(ours.astype(jnp.float64) - exact).max() / jnp.abs(exact).max()
    assert ours.dtype == jnp.float32
    assert float(error) < 4e-6


@pytest.mark.parametrize("rows", [None, 2])
@pytest.mark.parametrize("shape", SHAPES[-5:], ids=str)
def test_one_image_after_the_other_is_the_same(shape, rows, monkeypatch):
    stride, padding = shape[-2:]
    with jax.enable_x64(True):
        x, kernel = images_and_kernel(shape)

        def both(x):
            value, pull = jax.vjp(lambda x: convolutions.gather(x, kernel, stride, padding), x)
            return value, pull(value)[0]

        together = jax.jit(both)(x)
        limits = convolutions._NEW._replace(many_values=0, many_values_of_transposed=0)
        monkeypatch.setattr(convolutions, "_limits", lambda: limits)
        monkeypatch.setattr(convolutions, "_MANY_TILES", 1)
        if rows is not None:
            monkeypatch.setattr(winograd, "_rows_at_once", lambda *_: rows)
        one_by_one = jax.jit(lambda x: both(x))  # a new function, so it is lowered again
        assert one_by_one.lower(x).as_text().count("stablehlo.while") == 2  # and its transpose
        for a, b in zip(one_by_one(x), together, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("spare", [0, 1])
def test_planes_that_are_too_many_are_of_one_image_after_the_other(spare, monkeypatch):
    values = 3 * 12 * 13 * 49 * 3  # images, padded pixels, taps, channels
    monkeypatch.setattr(convolutions, "_MANY_PLANE_VALUES", values - 1 + spare)
    with jax.enable_x64(True):
        x, kernel = normal(0, (3, 8, 9, 5), (7, 7, 5, 3))
        convolve = jax.jit(lambda x: convolutions.gather(x, kernel, 1, 2))
        assert ("while" in convolve.lower(x).as_text()) == (not spare)
        np.testing.assert_allclose(convolve(x), plain(x, kernel, 1, 2), rtol=0, atol=1e-10)


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("form", [(2, 3), (4, 3), (2, 2), (4, 2)], ids=str)
def test_some_rows_of_points_at_a_time_are_the_same(form, rows, monkeypatch):
    with jax.enable_x64(True):
        tile, taps = form
        x, kernel = normal(5, (2, 9, 10, 4), (taps, taps, 4, 3))

        def both(x, kernel):
            y = winograd.convolve(x, kernel, 1, tile)
            return y, winograd.convolve_transposed(y, kernel, 1, tile)

        together = jax.jit(both)(x, kernel)
        monkeypatch.setattr(winograd, "_rows_at_once", lambda side, values: min(rows, side))
        products = str(jax.make_jaxpr(lambda x: winograd.convolve(x, kernel, 1, tile))(x))
        assert products.count("barrier") == 2 * -(-(tile + taps - 1) // rows) + 1
        in_parts = jax.jit(lambda *arrays: both(*arrays))(x, kernel)  # which is traced again
        for a, b in zip(in_parts, together, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("shape", [(24, 26, 32, 128), (26, 24, 64, 256)], ids=str)
def test_blocks_are_the_same_with_a_row_of_points_at_a_time(shape, monkeypatch):
    height, width, large, small = shape
    with jax.enable_x64(True):
        x, kernel = images_and_kernel((height, width, large, small, 4))

        def both(x):
            y = convolutions.gather(x, kernel, 2, 1)
            return y, convolutions.scatter(y, kernel, 2, 1, (height, width))

        together = jax.jit(both)(x)
        asked = []
        monkeypatch.setattr(winograd, "_rows_at_once", lambda *_: asked.append(1) or 1)
        for a, b in zip(jax.jit(lambda x: both(x))(x), together, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
        assert asked


@pytest.mark.parametrize("shape", [(16, 16, 2, 256), (24, 26, 64, 256)], ids=str)
def test_kernels_may_come_first_in_products(shape, monkeypatch):
    height, width, large, small = shape
    monkeypatch.setattr(winograd, "_LONG_SUM", 1)
    monkeypatch.setattr(winograd, "_LARGE_KERNEL", 0)
    with jax.enable_x64(True):
        y, kernel = normal(11, (2, height // 2, width // 2, small), (4, 4, large, small))
        found, turned = [], []
        for by_eigen, few in ((False, 0), (True, 0), (False, 1000)):
            monkeypatch.setattr(processor, "is_x86_without_avx512", lambda eigen=by_eigen: eigen)
            monkeypatch.setattr(winograd, "FEW_ROWS", few)
            program = jax.jit(lambda y: convolutions.scatter(y, kernel, 2, 1, (height, width)))
            found.append(program(y))
            turned.append(program.lower(y).as_text().count("stablehlo.transpose"))
        np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-10)
        np.testing.assert_allclose(found[2], found[0], rtol=0, atol=1e-10)
        assert turned[2] == turned[1] > turned[0]


def test_a_row_of_points_by_itself_is_computed_once(monkeypatch):
    monkeypatch.setattr(winograd, "_rows_at_once", lambda *_: 1)
    x, kernel = (a.astype(jnp.float32) for a in normal(6, (2, 10, 14, 64), (3, 3, 64, 32)))
    program = jax.jit(lambda x: winograd.convolve(x, kernel, 0, 4)).lower(x).compile()
    rows = re.findall(r"= f32\[1,2,2,14,64\]\S* (?:fusion|concatenate)\(", program.as_text())
    assert len(rows) >= 6


@pytest.mark.parametrize("transposed", [False, True])
def test_kernels_are_transformed_after_the_images_are_known(transposed, monkeypatch):
    convolve = winograd.convolve_transposed if transposed else winograd.convolve
    x, kernel = (a.astype(jnp.float32) for a in normal(8, (1, 9, 9, 4), (3, 3, 4, 4)))
    known, transform = [], winograd.transform_kernel

    def listen(kernel, tile, after, *rows):
        known.append(float(after))
        return transform(kernel, tile, after, *rows)

    monkeypatch.setattr(winograd, "transform_kernel", listen)
    for images in (x, 2 * x):
        convolve(images, kernel, 1, 2)
    assert len(known) == 2 and known[0]  # not a zero from the padding, which is known earlier
    assert known[1] == 2 * known[0]


@pytest.mark.parametrize("rows", [slice(None), slice(1, 2), slice(2, 5)], ids=str)
@pytest.mark.parametrize("tile", [2, 4])
def test_a_large_kernel_is_transformed_before_it_is_folded(tile, rows):
    with jax.enable_x64(True):
        kernel, after = normal(10, (4, 4, 6, 5), (1,))
        folded = convolutions._fold(kernel)
        expected = winograd.transform_kernel(folded, tile, after[0], rows)
        found = winograd.transform_kernel_of_blocks(kernel, tile, after[0], rows)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_a_large_kernel_is_not_kept_in_another_order():
    x, kernel = (jnp.zeros(shape, jnp.float32) for shape in ((1, 26, 24, 256), (4, 4, 256, 256)))

    def gradient(x, kernel):
        y, pull = jax.vjp(lambda x: convolutions.gather(x, kernel, 2, 1), x)
        return pull(y)[0]

    program = jax.jit(gradient).lower(x, kernel).compile().as_text()
    copies = re.findall(r"= f32\[([\d,]+)\]\S* (?:copy|transpose)\(", program)
    assert not any(math.prod(map(int, shape.split(","))) == kernel.size for shape in copies)


def test_a_folded_kernel_is_not_kept_until_its_transpose_if_it_is_large(monkeypatch):
    x, kernel = (a.astype(jnp.float32) for a in normal(11, (1, 26, 24, 128), (4, 4, 128, 256)))

    def gradient(x, kernel):
        y, pull = jax.vjp(lambda x: convolutions.gather(x, kernel, 2, 1), x)
        return pull(y)[0]

    found, folds = [], []
    for least in (kernel.size + 1, kernel.size):
        monkeypatch.setattr(convolutions, "_MANY_WEIGHTS", least)
        program = jax.jit(lambda *both: gradient(*both)).lower(x, kernel).compile()
        fold = rf"= f32\[4,{kernel.size // 4}\]\S* fusion\("
        folds.append(len(re.findall(fold, program.as_text())))
        found.append(program(x, kernel))
    assert folds == [1, 2]
    np.testing.assert_array_equal(*found)


def test_patches_are_cut_from_what_is_computed_once():
    x, kernel = (a.astype(jnp.float32) for a in normal(9, (1, 8, 8, 64), (4, 4, 64, 256)))
    program = jax.jit(lambda x: convolutions.gather(3.25 * x, kernel, 2, 1)).lower(x).compile()
    assert program.as_text().count("constant(3.25)") == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_materialized_does_not_change(dtype):
    with jax.enable_x64(True):
        limits = np.finfo(dtype)
        x = np.array([0, -0.0, 1e-3, -7, limits.max, limits.tiny, np.inf, -np.inf, np.nan], dtype)
        found = jax.jit(materialize)(x)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, x)
        for number in x:  # perhaps of another image, whose NaN must not spread
            np.testing.assert_array_equal(jax.jit(materialize)(x, number), x)
            np.testing.assert_array_equal(jax.jit(later)(x[:-3], number), x[:-3])


def test_small_images_are_blocks_if_there_are_many():
    few, many = ((count, (8, 8), 1024) for count in (11, 12))
    assert convolutions._is_kernel_larger(*few)
    assert not convolutions._is_kernel_larger(*many)
    with jax.enable_x64(True):
        x, kernel = normal(7, (12, 16, 16, 64), (4, 4, 64, 256))
        value, slope, (expected, _) = value_and_slopes(
            functools.partial(plain, stride=2, padding=1), x, kernel, 8
        )
        found = jax.jit(convolutions.gather, static_argnums=(2, 3))(x, kernel, 2, 1)
        np.testing.assert_allclose(found, value, rtol=0, atol=1e-10)
        scatter = jax.jit(convolutions.scatter, static_argnums=(2, 3, 4))
        back = scatter(slope, kernel, 2, 1, (16, 16))
        np.testing.assert_allclose(back, expected, rtol=0, atol=1e-8)
    folded = convolutions._fold(kernel)
    assert convolutions._tile_on_blocks(folded, 12, (8, 8), 128)
    assert not convolutions._tile_on_blocks(folded, 11, (8, 8), 128)


def test_rows_of_points_are_as_many_as_the_caches_keep():
    assert winograd._rows_at_once(6, 100) == 6
    assert winograd._rows_at_once(6, 5 * 2**20 // 6) == 6
    assert winograd._rows_at_once(6, 2**20) == 2  # three would fit, but pairs stay together
    assert winograd._rows_at_once(5, 2**22) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_that_is_not_finite_leaves_the_others_alone(value):
    x, kernel = normal(0, (2, 32, 32, 64), (3, 3, 64, 64))
    x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
    exact = convolutions.gather(x, kernel, 1, 1)[1]
    broken = x.at[0, 0, 0, 0].set(value)
    value, pull = jax.vjp(lambda x: convolutions.gather(x, kernel, 1, 1), broken)
    np.testing.assert_array_equal(value[1], exact)
    assert not np.isfinite(value[0, 0, 0]).any()
    assert np.isfinite(pull(value.at[0].set(broken[0]))[0][1]).all()


@pytest.mark.parametrize("shape", SHAPES[-5:], ids=str)
def test_what_is_computed_once_is_the_same_without_transforms(shape):
    stride, padding = shape[-2:]
    with jax.enable_x64(True):
        x, kernel = images_and_kernel(shape)

        def convolve(x):
            return convolutions.gather(x, kernel, stride, padding)

        often = jax.jit(convolve).lower(x).as_text()
        exact = convolve(x)
        with tracing.once():
            np.testing.assert_allclose(convolve(x), exact, rtol=0, atol=1e-11)
            plainly = jax.jit(lambda x: convolve(x)).lower(x).as_text()
    assert "dot_general" in often
    assert "dot_general" not in plainly


def test_without_jit():
    images, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 2))
    expected = convolutions.gather(images, kernel, 1, 1)
    with jax.disable_jit():
        found = convolutions.gather(images, kernel, 1, 1)
    assert jnp.allclose(found, expected)


def test_second_derivatives():
    with jax.enable_x64(True):
        x, kernel = images_and_kernel((8, 6, 3, 8, 4, 2, 1))

        def curved(convolve, x, kernel):
            slope = jax.grad(lambda x: (convolve(x, kernel, 2, 1) ** 3).sum())(x)
            return (slope**2).sum()

        mine, theirs = (
            jax.grad(functools.partial(curved, convolve), argnums=(0, 1))(x, kernel)
            for convolve in (convolutions.gather, plain)
        )
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_domains_may_be_mapped_over(axis):
    x, kernel = images_and_kernel((8, 8, 3, 4, 3, 1, 1))
    many = jnp.stack([x, 2 * x], axis)
    mapped = jax.vmap(lambda x: convolutions.gather(x, kernel, 1, 1), axis)(many)
    np.testing.assert_allclose(mapped[1], 2 * mapped[0], rtol=1e-5)


def test_kernels_may_be_mapped_over():
    shape = (8, 8, 3, 4, 3, 1, 1)
    with jax.enable_x64(True):
        x, kernel = images_and_kernel(shape)
        kernels = jnp.stack([kernel, 2 * kernel])

        def slope(kernel):
            return jax.grad(lambda x: (convolutions.gather(x, kernel, 1, 1) ** 3).sum())(x)

        mapped = jax.vmap(slope)(kernels)
        for one, kernel in zip(mapped, kernels, strict=True):
            np.testing.assert_allclose(one, slope(kernel), rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [SHAPES[4], SHAPES[-1]], ids=str)
def test_derivatives_forward_are_those_backward(shape):
    stride, padding = shape[-2:]
    with jax.enable_x64(True):
        both = images_and_kernel(shape)
        moved = images_and_kernel(shape, seed=7)
        convolve = functools.partial(convolutions.gather, stride=stride, padding=padding)
        _, change = jax.jvp(convolve, both, moved)
        exact = jax.jvp(functools.partial(plain, stride=stride, padding=padding), both, moved)[1]
        np.testing.assert_allclose(change, exact, rtol=0, atol=1e-11)


def test_a_trace_holds_one_equation_for_a_convolution():
    x, kernel = images_and_kernel(SHAPES[-1])
    traced = jax.make_jaxpr(lambda x: convolutions.gather(x, kernel, 2, 1))(x)
    assert len(traced.eqns) == 1


@few
@given(
    form=st.sampled_from([(2, 3), (4, 3), (2, 2), (4, 2)]),
    height=st.integers(3, 11),
    width=st.integers(3, 11),
    padding=st.integers(0, 2),
    seed=st.integers(0, 2**16),
)
def test_winograd_fits_every_size(form, height, width, padding, seed):
    with jax.enable_x64(True):
        tile, taps = form
        x, kernel = normal(seed, (1, height, width, 2), (taps, taps, 2, 3))
        exact, slope, (expected, _) = value_and_slopes(
            functools.partial(plain, stride=1, padding=padding), x, kernel, seed
        )
        ours, back = jax.jit(
            lambda x, slope, kernel: (
                winograd.convolve(x, kernel, padding, tile),
                winograd.convolve_transposed(slope, kernel, padding, tile),
            )
        )(x, slope, kernel)
        np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-11)
        np.testing.assert_allclose(back, expected, rtol=0, atol=1e-11)
