"""All models. A new one is a file here and a line in this list."""

from hm4sr.models import fearec, gru4rec, hm4sr, lrurec, nova, sasrec, ticoserec, tisasrec
from hm4sr.models.base import ModelConfig, SeqRecModel, get_model, registered_models

__all__ = [
    "ModelConfig",
    "SeqRecModel",
    "fearec",
    "get_model",
    "gru4rec",
    "hm4sr",
    "lrurec",
    "nova",
    "registered_models",
    "sasrec",
    "ticoserec",
    "tisasrec",
]
