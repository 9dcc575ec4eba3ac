"""All models. A new one is a file here and a line in this list."""

from hm4sr.models import (
    difsr,
    fearec,
    gru4rec,
    hm4sr,
    hm4sr_plus,
    iisan,
    lrurec,
    m3srec,
    missrec,
    nova,
    sasrec,
    tedrec,
    ticoserec,
    tisasrec,
    unisrec,
)
from hm4sr.models.base import ModelConfig, SeqRecModel, get_model, registered_models

__all__ = [
    "ModelConfig",
    "SeqRecModel",
    "difsr",
    "fearec",
    "get_model",
    "gru4rec",
    "hm4sr",
    "hm4sr_plus",
    "iisan",
    "lrurec",
    "m3srec",
    "missrec",
    "nova",
    "registered_models",
    "sasrec",
    "tedrec",
    "ticoserec",
    "tisasrec",
    "unisrec",
]
