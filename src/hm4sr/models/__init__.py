"""All models. A new one is a file here and a line in this list."""

from hm4sr.models import difsr, hm4sr, iisan, m3srec, missrec, sasrec, tedrec, unisrec
from hm4sr.models.base import ModelConfig, SeqRecModel, get_model, registered_models

__all__ = [
    "ModelConfig",
    "SeqRecModel",
    "difsr",
    "get_model",
    "hm4sr",
    "iisan",
    "m3srec",
    "missrec",
    "registered_models",
    "sasrec",
    "tedrec",
    "unisrec",
]
