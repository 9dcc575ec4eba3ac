"""What to encode, with what, and how: the settings of `hm4sr features`."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from hm4sr.config import Config
from hm4sr.features.encoder import Pooling, Precision

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_-]*"


class FeatureConfig(Config):
    """What to encode, with what, and how."""

    text: str | None = None
    """Encoder of the texts: folder of a BERT-type, sentence-transformers or CLIP model, its name on the hub,
    or builtin."""
    image: str | None = None
    """Encoder of the pictures: folder of a ViT-type or CLIP model, its name on the hub, or builtin."""
    text_name: str = Field(default="text", pattern=f"^{NAME_PATTERN}$")
    """Name of the text vectors in the data set."""
    image_name: str = Field(default="image", pattern=f"^{NAME_PATTERN}$")
    """Name of the image vectors in the data set."""
    pooling: Pooling = "auto"
    """From states to one vector: the class token, the mean or maximum over real tokens or patches, the last
    token, the model's own pooler, CLIP's projection; auto: as a sentence-transformers folder says, CLIP's
    projection, the class token of others."""
    layer: int = -1
    """Whose states are pooled: -1 the last layer, -2 the one before it; 0 what enters the first layer."""
    levels: bool = False
    """Keep the class token after each layer as well (float16), for models that adapt an encoder's layers."""
    precision: Precision = "auto"
    """Arithmetic of pretrained encoders; auto takes bfloat16 where the processor multiplies it, which is
    faster and a little coarser."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the stored vectors."""
    text_batch: int = Field(default=64, ge=1)
    """Texts encoded at once."""
    image_batch: int = Field(default=16, ge=1)
    """Pictures encoded at once."""
    readers: int = Field(default=2, ge=1)
    """Threads of a process that read and decode pictures."""
    workers: int = Field(default=1, ge=1)
    """Processes that encode; more than one run under Ray."""
    address: str | None = None
    """Address of a running Ray cluster whose machines share the work (auto finds the one of this machine);
    left out, the workers run on this machine."""
    image_root: Path | None = None
    """Folder that the pictures' paths are relative to; the one noted by `hm4sr prepare` if not given."""
    cache: Path | None = None
    """Folder of vectors by content, which data sets may share; DATASET/features/.cache if not given."""
