"""Models in this process, behind the server's core, without ports."""

from pathlib import Path

from tests.support.onnx_models import put_model

from casemate.serving.core import Core
from casemate.serving.loading import Loader
from casemate.serving.metrics import NoMetrics
from casemate.serving.model import EngineOptions
from casemate.serving.registry import LoadRules, Registry
from casemate.serving.settings import ModelSettings
from casemate.serving.turns import Turns


def loader(**changes) -> Loader:
    """Loads versions, one thread each."""
    made = {
        "engine": EngineOptions(intra_op_threads=1),
        "metrics": NoMetrics(),
        "warmup_iterations": 1,
        "max_bytes": 1 << 20,
        "turns": Turns(2),
    }
    return Loader(**(made | changes))


def served_core(
    base: Path, content: bytes, *, name: str = "m", max_bytes: int = 1 << 20, signatures: str = ""
) -> Core:
    """A core that serves one model, of version 1."""
    put_model(base, content)
    if signatures:
        (base / "1" / "signatures.json").write_text(signatures)
    registry = Registry(loader().load, LoadRules())
    registry.start((ModelSettings(name=name, base_path=base),))
    return Core(registry, max_bytes=max_bytes, metrics=NoMetrics())
