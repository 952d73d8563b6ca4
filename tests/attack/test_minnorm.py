"""The solver against exact enumeration and the optimality conditions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdmaa_jax.attack import minnorm

COUNTS = (1, 2, 3, 4, 8, 16)
LENGTH = 48
jitted = jax.jit(minnorm.min_norm_weights)


def solve(stacks):
    """Weights [B,J] of gradients [B,J,N]; padded with zeros, so that each J is compiled once."""
    padding = ((0, len(KINDS) - len(stacks)), (0, 0), (0, LENGTH - stacks.shape[2]))
    return np.asarray(jitted(jnp.asarray(np.pad(stacks, padding))))[: len(stacks)]


def exact_weights(vectors):
    """The shortest convex combination by trying every face of the simplex; float64 [J,N] -> [J]."""
    vectors = vectors / np.abs(vectors).max()
    count, best, shortest = len(vectors), None, np.inf
    for size in range(1, count + 1):
        for face in itertools.combinations(range(count), size):
            weights = np.zeros(count)
            weights[list(face)] = affine_minimum(vectors[list(face)])
            length = np.linalg.norm(weights @ vectors)
            if (weights >= -1e-12).all() and length < shortest - 1e-15:
                best, shortest = weights, length
    return best


def affine_minimum(vectors):
    """The weights, of any sign, of the shortest affine combination."""
    differences = vectors[1:] - vectors[0]
    rest = np.linalg.lstsq(differences.T, -vectors[0], rcond=1e-12)[0]
    return np.concatenate([[1 - rest.sum()], rest])


def kkt_residual(vectors, weights):
    """How far w·g_j falls short of ‖w‖², and exceeds it where a_j > 0, over the largest ‖g_j‖²."""
    vectors, weights = np.asarray(vectors, np.float64), np.asarray(weights, np.float64)
    largest = np.abs(vectors).max()
    vectors = vectors / (largest if largest > 0 else 1)
    w = weights @ vectors
    slack = vectors @ w - w @ w
    shortfall = max(0.0, -slack.min())
    surplus = (weights * np.abs(slack)).max()
    return max(shortfall, surplus) / max((vectors**2).sum(1).max(), 1e-300)


def make(kind, count, rng, length=LENGTH):
    noise, common = rng.normal(size=(count, length)), rng.normal(size=(1, length))
    return {
        "random": noise,
        "shifted": noise + 0.5,
        "nearly parallel": common + 1e-3 * noise,
        "parallel": np.repeat(common, count, axis=0),
        "scaled": common * rng.uniform(0.5, 2, (count, 1)) + 1e-2 * noise,
        "mixed scales": (noise + 0.5) * 10 ** rng.uniform(-6, 0, (count, 1)),
        "dependent": rng.normal(size=(count, 2)) @ rng.normal(size=(2, length)),
        "one zero": noise * (np.arange(count) != count // 2)[:, None],
    }[kind]


KINDS = (
    "random", "shifted", "nearly parallel", "parallel", "scaled", "mixed scales", "dependent",
    "one zero",
)  # fmt: skip


def assert_simplex(weights):
    assert np.isfinite(weights).all()
    assert (np.asarray(weights) >= 0).all()
    np.testing.assert_allclose(np.asarray(weights).sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e12, 1e30])
def test_optimal_in_float32(count, scale):
    rng = np.random.default_rng(count)
    stacks = np.stack([make(kind, count, rng) for kind in KINDS]).astype(np.float32)
    stacks = stacks * np.float32(scale)
    weights = solve(stacks)
    assert_simplex(weights)
    residuals = {k: kkt_residual(v, a) for k, v, a in zip(KINDS, stacks, weights, strict=True)}
    assert max(residuals.values()) < 2e-6, residuals


@pytest.mark.parametrize("count", COUNTS)
def test_optimal_in_float64(count, x64):
    rng = np.random.default_rng(count)
    stacks = np.stack([make(kind, count, rng) for kind in KINDS])
    weights = solve(stacks)
    assert_simplex(weights)
    residuals = {k: kkt_residual(v, a) for k, v, a in zip(KINDS, stacks, weights, strict=True)}
    assert max(residuals.values()) < 1e-13, residuals


def test_optimal_for_many_gradients_of_very_different_lengths(x64):
    """These take more iterations than a bound suited to few gradients would allow."""
    rng = np.random.default_rng(0)
    stacks = rng.normal(size=(4, 64, 2000)) * 10 ** rng.uniform(-6, 0, (4, 64, 1))
    weights = np.asarray(jitted(jnp.asarray(stacks)))
    assert_simplex(weights)
    for vectors, found in zip(stacks, weights, strict=True):
        shortest = found @ vectors
        slack = (vectors @ shortest).min() / (shortest @ shortest)
        assert slack > 0.9999  # 1 at the minimum


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize(
    ("ratio", "least"), [(1, 0.999), (1e2, 0.999), (1e4, 0.99), (1e5, 0.95), (1e6, 0)]
)
def test_the_combination_raises_all_losses_in_float32_however_short_a_gradient(count, ratio, least):
    """w·g_j relative to ‖w‖² itself; relative to the longest gradient it is all rounding.

    One of the gradients is longer than the others by the ratio, or the lengths are spread over it.
    """
    rng = np.random.default_rng(count)
    vectors = rng.normal(size=(128, count, 2000)) / np.sqrt(2000)
    exponents = rng.uniform(0, 1, (128, count))
    exponents[:64], exponents[:, 0] = 1, 0
    vectors = (vectors / ratio ** exponents[..., None]).astype(np.float32)
    weights = np.asarray(jitted(jnp.asarray(vectors)))
    assert_simplex(weights)
    w = np.einsum("bj,bjn->bn", weights.astype(np.float64), vectors)
    slopes = np.einsum("bjn,bn->bj", vectors, w) / (w**2).sum(1, keepdims=True)
    assert slopes.min() > least  # 1 at the minimum


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("kind", ["random", "shifted", "nearly parallel", "scaled"])
def test_agrees_with_enumeration(count, kind, x64):
    """The combination is unique though its weights need not be."""
    vectors = make(kind, count, np.random.default_rng(7 * count))
    exact = exact_weights(vectors) @ vectors
    ours = solve(vectors[None])[0] @ vectors
    np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-9 * np.abs(vectors).max())


@pytest.mark.parametrize("count", [8, 16])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_enumeration_in_three_dimensions(count, seed, x64):
    """However many gradients there are, a face of four vertices has the minimum (Carathéodory)."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 3)) + np.array([[1.5, 0, 0]])
    faces = [f for n in (1, 2, 3, 4) for f in itertools.combinations(range(count), n)]
    candidates = [(affine_minimum(vectors[list(f)]), f) for f in faces]
    lengths = [np.linalg.norm(a @ vectors[list(f)]) for a, f in candidates if (a >= 0).all()]
    ours = solve(vectors[None])[0]
    assert kkt_residual(vectors, ours) < 1e-13
    shortest = min(lengths) if min(lengths) > 1e-6 else 0.0
    np.testing.assert_allclose(np.linalg.norm(ours @ vectors), shortest, atol=1e-6)


@settings(max_examples=60)
@given(
    st.sampled_from(COUNTS),
    st.sampled_from(KINDS),
    st.integers(0, 2**32 - 1),
    st.floats(-25, 25),
)
def test_theorem_1(count, kind, seed, exponent):
    """With a ≥ 0, w·g_j ≥ ‖w‖² for every j, with equality where a_j > 0."""
    vectors = make(kind, count, np.random.default_rng(seed)).astype(np.float32)
    vectors = vectors * np.float32(10.0**exponent)
    weights = solve(vectors[None])[0]
    assert_simplex(weights)
    assert kkt_residual(vectors, weights) < 2e-6


@pytest.mark.parametrize("count", COUNTS)
def test_zero_gradients_get_uniform_weights(count):
    weights = solve(np.zeros((2, count, 5), np.float32))
    np.testing.assert_allclose(weights, np.full((2, count), 1 / count), rtol=1e-6)


def test_two_gradients_have_a_closed_form():
    vectors = np.array([[[2.0, 0.0], [0.0, 1.0]]], np.float32)
    np.testing.assert_allclose(solve(vectors)[0], [0.2, 0.8], rtol=1e-6)


def test_weight_leaves_a_gradient_that_another_dominates():
    vectors = np.array([[[3.0, 0.0], [1.0, 0.0], [2.0, 0.1]]], np.float32)
    np.testing.assert_array_equal(solve(vectors)[0], [0, 1, 0])


@pytest.mark.parametrize("shape", [(2, 0, 5), (0, 2, 5), (2, 3, 0)])
def test_no_gradients_are_refused(shape):
    with pytest.raises(ValueError, match=r"gradients must be \[B,J,...\], at least one, not \("):
        minnorm.min_norm_weights(jnp.zeros(shape))


def test_images_do_not_share_weights():
    rng = np.random.default_rng(0)
    stacks = np.stack([make(kind, 4, rng) for kind in KINDS]).astype(np.float32)
    together = solve(stacks)
    alone = [solve(stack[None])[0] for stack in stacks]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)
