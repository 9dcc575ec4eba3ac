"""HM4SR: multi-modal sequential recommendation, from raw logs to recommendations.

Importing the package is cheap: torch is loaded by the parts that need it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hm4sr.data.dataset import Dataset as Dataset
    from hm4sr.serving.onnx_recommender import OnnxRecommender as OnnxRecommender
    from hm4sr.serving.recommender import Recommender as Recommender

_LAZY = {
    "Dataset": "hm4sr.data.dataset",
    "OnnxRecommender": "hm4sr.serving.onnx_recommender",
    "Recommender": "hm4sr.serving.recommender",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'hm4sr' has no attribute {name!r}")
