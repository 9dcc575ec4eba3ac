"""What experiments are about: a prepared data set, or what published runs say of one that is not here."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hm4sr.data.dataset import Dataset
from hm4sr.errors import UserError
from hm4sr.experiments.records import DatasetFacts, Record, find_facts, identity
from hm4sr.features.store import feature_names, read_feature_manifest
from hm4sr.training.settings import Experiment


@dataclass(frozen=True)
class Subject:
    """A data set with the hashes that decide which runs are about it.

    Attributes:
        name: the folder's name.
        path: the folder, whether it is there or not.
        files: sha256 of each table.
        features: modality to sha256 of each of its files.
        dataset: the data set itself; None where only published runs are there.
        facts: published facts about it, where there are some.
    """

    name: str
    path: Path
    files: Mapping[str, str]
    features: Mapping[str, Mapping[str, str]]
    dataset: Dataset | None = field(default=None, repr=False)
    facts: DatasetFacts | None = field(default=None, repr=False)

    @classmethod
    def of_dataset(cls, dataset: Dataset) -> "Subject":
        """A data set that is here."""
        features = {name: read_feature_manifest(dataset, name)["files"] for name in feature_names(dataset)}
        return cls(dataset.name, dataset.path, dataset.hashes, features, dataset)

    @classmethod
    def published(cls, name: str, records: Sequence[Record], folders: Sequence[Path]) -> "Subject":
        """A data set of which only published runs are here.

        Args:
            name: of the data set, in the reports.
            records: published runs, of any data set.
            folders: where facts about data sets are looked for.

        Raises:
            UserError: no run is about it, or runs under its name are about different data.
        """
        about = [record for record in records if record.report["dataset"] == name]
        versions = {tuple(sorted(record.data["files"].items())) for record in about}
        if not about:
            raise UserError(
                f"{name} is neither a prepared data set nor the name of one that --reports has runs of: "
                "run `hm4sr prepare` first, or check the name."
            )
        if len(versions) > 1:
            raise UserError(
                f"the runs on {name} are about different versions of it: give the data set itself."
            )
        files = dict(versions.pop())
        # Vectors may have been extracted anew in between: those count that most runs have read.
        read = Counter(pair for record in about for pair in _features(record))
        features = {modality: dict(hashes) for (modality, hashes), _ in reversed(read.most_common())}
        return cls(name, Path(name), files, features, None, find_facts(folders, files))

    def pinned(self, experiment: Experiment) -> Experiment:
        """The experiment with its modalities named, as a run of it would have them."""
        chosen: tuple[str, ...] = ()
        if experiment.model_class.multimodal:
            given = experiment.data.features
            chosen = tuple(sorted(self.features)) if given is None else given
        data = experiment.data.model_copy(update={"features": chosen})
        return experiment.model_copy(update={"data": data})

    def identity(self, experiment: Experiment) -> str:
        """See `records.identity`; the same for a run on the data set and for its published copy.

        Raises:
            UserError: the experiment names a modality that the data set lacks.
        """
        exact = self.pinned(experiment)
        modalities = exact.data.features or ()
        for modality in modalities:
            if modality not in self.features:
                known = ", ".join(sorted(self.features)) or "none"
                raise UserError(
                    f"{self.path} has no features named {modality!r} (it has {known}): "
                    "run `hm4sr features` first."
                )
        data = {"files": self.files, "features": {name: self.features[name] for name in modalities}}
        return identity(exact.resolved(), data)

    def target_facts(self) -> DatasetFacts | None:
        """Facts about its test targets; None where neither the data set nor published facts are here."""
        return DatasetFacts.of(self.dataset) if self.dataset is not None else self.facts


def _features(record: Record) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    for modality, files in record.data["features"].items():
        yield modality, tuple(sorted(files.items()))
