"""A recommender as a few words that can be sent to another process."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hm4sr.files import sha256
from hm4sr.serving.index import IndexConfig
from hm4sr.serving.new_items import read_new_items_file
from hm4sr.serving.recommender import Recommender


@dataclass(frozen=True)
class Source:
    """What is needed to load a recommender, here or elsewhere.

    Attributes:
        run: the run folder.
        data: the prepared data set, if it has moved.
        new_items: raw items file of items that came after training.
        index: how items are searched, as `IndexConfig.kind`.
        device: "auto", "cpu", "cuda", ...
    """

    run: str
    data: str | None = None
    new_items: str | None = None
    index: Literal["auto", "exact", "faiss"] = "exact"
    device: str = "auto"

    def load(self) -> Recommender:
        """Load it.

        Raises:
            UserError: see `Recommender.load` and `Recommender.add_items`.
        """
        recommender = Recommender.load(self.run, self.data, self.device, IndexConfig(kind=self.index))
        if self.new_items is not None:
            items, root = read_new_items_file(Path(self.new_items), recommender.dataset)
            recommender.add_items(items, image_root=root)
        return recommender

    def identity(self, recommender: Recommender) -> dict[str, Any]:
        """What decides the answers: contents, not places."""
        return {
            "run": sha256(Path(self.run) / "manifest.json"),
            "data": recommender.dataset.hashes,
            "new_items": None if self.new_items is None else sha256(Path(self.new_items)),
            "index": self.index,
        }
