"""What the extraction of one modality has covered, to print and to keep."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Broken:
    """A picture without a vector.

    Attributes:
        item_id: the raw id of its item.
        file: its path as the data set has it, or its address.
        reason: why it could not be read or downloaded.
    """

    item_id: str
    file: str
    reason: str


@dataclass(frozen=True)
class Coverage:
    """What one modality got.

    Attributes:
        name: name of the vectors in the data set.
        modality: "text", "image", or "vectors" for those of a file.
        encoder: folder, hub name, "builtin", or that file.
        num_items: items of the data set.
        missing: items without a text, or without a picture and without a failed download.
        encoded: different texts or pictures encoded by this run.
        cached: different texts or pictures whose vectors were there already.
        seconds: time spent on reading and encoding.
        broken: items whose picture could not be read, or not be downloaded.
        width: length of a vector (F).
        present: items with a vector.
    """

    name: str
    modality: str
    encoder: str
    num_items: int
    missing: int
    encoded: int
    cached: int
    seconds: float
    broken: list[Broken] = field(default_factory=list)
    width: int = 0
    present: int = 0

    @property
    def rate(self) -> float:
        """Texts or pictures encoded a second."""
        return self.encoded / self.seconds if self.encoded and self.seconds else 0.0
