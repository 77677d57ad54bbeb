"""licm: learning independent causal mechanisms with competing experts.

The public names are loaded when first used, so that `import licm` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from licm.causal.changes import mechanism_changes
    from licm.causal.chow_liu import ChowLiu
    from licm.causal.factorization import CausalFactorization
    from licm.competition import Competition, compete
    from licm.config import Config, load_config, make_config
    from licm.datasets import TrainingData, load_originals, load_training_data
    from licm.describing import describe
    from licm.estimator import MechanismInverter
    from licm.evaluation import evaluate
    from licm.mechanisms import MECHANISMS, Chain, Mechanism, parse_mechanism, parse_mechanisms
    from licm.models import Discriminator, Expert, ExpertBank
    from licm.run import Run
    from licm.saving import load_run
    from licm.training import train

_HOME = {
    "licm.causal.changes": ["mechanism_changes"],
    "licm.causal.chow_liu": ["ChowLiu"],
    "licm.causal.factorization": ["CausalFactorization"],
    "licm.competition": ["Competition", "compete"],
    "licm.config": ["Config", "load_config", "make_config"],
    "licm.datasets": ["TrainingData", "load_originals", "load_training_data"],
    "licm.describing": ["describe"],
    "licm.estimator": ["MechanismInverter"],
    "licm.evaluation": ["evaluate"],
    "licm.mechanisms": ["MECHANISMS", "Chain", "Mechanism", "parse_mechanism", "parse_mechanisms"],
    "licm.models": ["Discriminator", "Expert", "ExpertBank"],
    "licm.run": ["Run"],
    "licm.saving": ["load_run"],
    "licm.training": ["train"],
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "MECHANISMS",
    "CausalFactorization",
    "Chain",
    "ChowLiu",
    "Competition",
    "Config",
    "Discriminator",
    "Expert",
    "ExpertBank",
    "Mechanism",
    "MechanismInverter",
    "Run",
    "TrainingData",
    "compete",
    "describe",
    "evaluate",
    "load_config",
    "load_originals",
    "load_run",
    "load_training_data",
    "make_config",
    "mechanism_changes",
    "parse_mechanism",
    "parse_mechanisms",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'licm' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
