"""The events as one run sees them: the data set's own, unless a study takes something away."""

from hm4sr.data.changes import blurred_times, training_events
from hm4sr.data.dataset import Dataset, EventLog
from hm4sr.runtime import numpy_generator
from hm4sr.training.settings import DataConfig


def seen_events(dataset: Dataset, settings: DataConfig) -> EventLog:
    """All events, with the times that the model is given in training, validation and test."""
    if not settings.time_noise_days:
        return dataset.events
    rng = numpy_generator(settings.change_seed, "time noise")
    return blurred_times(dataset.events, settings.time_noise_days, rng)


def learned_events(seen: EventLog, settings: DataConfig) -> EventLog:
    """The log whose train part is learned from.

    Args:
        seen: what `seen_events` gives.
        settings: of the run.
    """
    if settings.train_users == 1:
        return seen
    return training_events(seen, settings.train_users, numpy_generator(settings.change_seed, "train users"))
