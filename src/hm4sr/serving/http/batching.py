"""Questions that arrive together are answered together, by one thread, so that the event loop stays free."""

import queue
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from hm4sr.errors import UserError
from hm4sr.serving.answers import Recommendations
from hm4sr.serving.base import Asked, BaseRecommender
from hm4sr.serving.http.metrics import Metrics
from hm4sr.serving.http.settings import BatcherConfig


class TooLateError(Exception):
    """The deadline passed before there was an answer."""


@dataclass(eq=False)
class Waiting:
    """A question on its way.

    Attributes:
        recommender: who is asked; a reload does not change it.
        arguments: of `BaseRecommender.prepare`.
        rows: users or histories asked about.
        deadline: on the monotonic clock; nobody waits any longer.
        answer: gets the answers, a UserError, or TooLateError.
        asked_at: on the monotonic clock.
    """

    recommender: BaseRecommender
    arguments: Mapping[str, Any]
    rows: int
    deadline: float
    answer: "Future[Recommendations]" = field(default_factory=Future)
    asked_at: float = field(default_factory=time.monotonic)


class Batcher:
    """A queue and the thread that answers from it."""

    def __init__(self, config: BatcherConfig, metrics: Metrics):
        self.config = config
        self.metrics = metrics
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether questions will be answered."""
        return self._thread.is_alive()

    def ask(self, waiting: Waiting) -> "Future[Recommendations]":
        """Queue a question."""
        self._queue.put(waiting)
        return waiting.answer

    def close(self) -> None:
        """Answer what is queued, then stop."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, stopped = self._with_company(first)
            recommenders = {id(waiting.recommender): waiting.recommender for waiting in batch}
            for key, recommender in recommenders.items():
                self._answer(recommender, [waiting for waiting in batch if id(waiting.recommender) == key])
            if stopped:
                return

    def _with_company(self, first: Waiting) -> tuple[list[Waiting], bool]:
        """The question and those that follow soon; and whether the end of the queue was reached."""
        batch, rows = [first], first.rows
        until = time.monotonic() + self.config.wait_seconds
        while rows < self.config.rows:
            try:
                following = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if following is None:
                return batch, True
            batch.append(following)
            rows += following.rows
        return batch, False

    def _answer(self, recommender: BaseRecommender, batch: list[Waiting]) -> None:
        """Answer questions to one recommender; a mistake in one of them is told to its asker alone."""
        asked: list[Asked] = []
        ready: list[Waiting] = []
        for waiting in batch:
            if not waiting.answer.set_running_or_notify_cancel():
                continue
            now = time.monotonic()
            self.metrics.waited.observe(now - waiting.asked_at)
            try:
                if now > waiting.deadline:
                    raise TooLateError
                asked.append(recommender.prepare(**waiting.arguments))
                ready.append(waiting)
            except Exception as error:
                waiting.answer.set_exception(error)
        if not ready:
            return
        self.metrics.batch_rows.observe(sum(waiting.rows for waiting in ready))
        try:
            answers = recommender.answer(asked)
        except Exception as error:
            told = RuntimeError("the recommender failed") if isinstance(error, UserError) else error
            for waiting in ready:
                waiting.answer.set_exception(told)
            return
        for waiting, answer in zip(ready, answers, strict=True):
            for source in answer.sources:
                self.metrics.answers.labels(source).inc()
            waiting.answer.set_result(answer)
