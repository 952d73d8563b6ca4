"""Two simulated CPU devices, little optimization, no silent promotion; before JAX is used.

Signatures, shapes included, are checked at every call of the functions of some modules.
"""

import gc
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

CHECKED = (  # functions inside the package; those on its surface have messages of their own
    "attack.algorithm", "attack.domains", "attack.losses", "attack.minnorm", "attack.models",
    "attack.perturbations", "attack.regularization", "attack.targets", "attack.updates",
    "generators.layers",
)  # fmt: skip
install_import_hook([f"cdmaa_jax.{name}" for name in CHECKED], "beartype.beartype")

from cdmaa_jax.attack import compilation  # noqa: E402
from cdmaa_jax.generators.ensembles import load_ensemble  # noqa: E402
from tests.tiny import save_ensemble  # noqa: E402

FLAGS = ["--xla_force_host_platform_device_count=2"]
if os.environ["JAX_PLATFORMS"] == "cpu":  # XLA's GPU backend has no such level
    FLAGS.append("--xla_backend_optimization_level=0")
if jax.__version_info__ < (0, 11):  # later versions of XLA abort on this flag
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")  # compiles in a third of the time
os.environ["XLA_FLAGS"] = " ".join([*FLAGS, os.environ.get("XLA_FLAGS", "")]).strip()

compilation._ON_CPU["xla_backend_optimization_level"] = "0"

hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def x64():
    """Float64 arrays, for tests of behaviour that must not depend on rounding."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    """The tiny ensemble."""
    return load_ensemble([str(save_ensemble(tmp_path_factory.mktemp("ensemble")))])


@pytest.fixture(autouse=True, scope="session")
def keep_programs(tmp_path_factory):
    """Keeps programs on disk while the tests run: what one has compiled, others read."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("programs")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Compiled programs are memory maps, whose number per process is limited.

    Imported objects are hidden from the garbage collector, which each compilation calls twice.
    """
    gc.collect()
    gc.freeze()
    yield
    jax.clear_caches()
    compilation._READY.clear()  # so the first test of each module compiles afresh
