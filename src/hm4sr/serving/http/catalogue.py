"""Items by words of their titles."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from hm4sr.serving.shelf import Shelf


class ItemSearch:
    """Finds items whose title or id holds all words of a query, in any order and either case."""

    def __init__(self, shelf: Shelf):
        order = shelf.by_popularity
        texts = shelf.table.select(
            text=pl.concat_str(pl.col("title"), pl.col("item_id"), separator=" ", ignore_nulls=True)
            .str.normalize("NFKC")
            .str.to_lowercase()
        )["text"]
        self._order = order
        self._texts = texts.gather(order - 1)

    def find(self, words: str, first: int, count: int) -> tuple[Sequence[int], int]:
        """Item numbers (1..) from place `first` on, most training events first, and how many fit in all."""
        fits = pl.Series([True]).new_from_index(0, len(self._texts))
        for word in pl.Series([words]).str.normalize("NFKC").str.to_lowercase()[0].split()[:20]:
            fits = fits & self._texts.str.contains(word, literal=True)
        places = np.flatnonzero(fits.to_numpy())
        return self._order[places[first : first + count]].tolist(), len(places)
