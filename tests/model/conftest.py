"""The embedded model and its engines, loaded once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vigc.model import embedded
from vigc.model.engines.continuous.engine import ContinuousEngine
from vigc.model.engines.reference import ReferenceEngine
from vigc.model.engines.vllm.engine import VllmEngine
from vigc.model.engines.vllm.environment import find_python
from vigc.model.network import Network, load_network
from vigc.platform.records import ConfigError


@pytest.fixture(scope="session")
def network() -> Network:
    return load_network(embedded.PATH, device="cpu")


@pytest.fixture(scope="session")
def continuous(network: Network) -> Iterator[ContinuousEngine]:
    engine = ContinuousEngine(network, num_slots=32)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def reference(network: Network) -> Iterator[ReferenceEngine]:
    engine = ReferenceEngine(network)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def vllm_python() -> str:
    try:
        return str(find_python())
    except ConfigError:
        pytest.skip("vLLM is not installed; `make vllm` does that")


@pytest.fixture(scope="session")
def vllm(network: Network, vllm_python: str) -> Iterator[VllmEngine]:
    engine = VllmEngine(network, python=vllm_python, num_slots=32)
    yield engine
    engine.close()
