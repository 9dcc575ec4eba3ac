"""What the routes ask: checked limits, deadlines, and threads for the work."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from hm4sr.errors import UserError
from hm4sr.serving.answers import Recommendations
from hm4sr.serving.explain import Explanation, explain
from hm4sr.serving.http.batching import Batcher, TooLateError, Waiting
from hm4sr.serving.http.metrics import Metrics
from hm4sr.serving.http.runs import LoadedRun, Runs
from hm4sr.serving.http.schemas import Filters, Question, SimilarQuestion, WhyQuestion
from hm4sr.serving.http.settings import ServeConfig

P = ParamSpec("P")
T = TypeVar("T")


class RefusedError(Exception):
    """A request that gets no answer.

    Attributes:
        status: of the HTTP answer.
        sentence: what is wrong and what to do.
    """

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class Service:
    """One process's recommenders, batcher and metrics.

    Attributes:
        stopping: set when no new requests should be sent here.
    """

    def __init__(self, config: ServeConfig, runs: Runs, metrics: Metrics, token: bytes | None = None):
        self.config, self.runs, self.metrics, self.token = config, runs, metrics, token
        self.stopping = False
        self._batcher = Batcher(config.batcher, metrics)
        self._work = ThreadPoolExecutor(2, "work")

    @property
    def ready(self) -> bool:
        """Whether questions are answered."""
        return not self.stopping and self._batcher.alive

    def close(self) -> None:
        """Finish what has begun and end the threads."""
        self.stopping = True
        self._batcher.close()
        self._work.shutdown(cancel_futures=True)

    def run_of(self, name: str | None) -> LoadedRun:
        """The named run, or the first.

        Raises:
            RefusedError: 404, there is no such run.
        """
        loaded = self.runs.loaded
        if name is None:
            return next(iter(loaded.values()))
        if name not in loaded:
            raise RefusedError(404, f"run {name!r} is not served here: GET /runs lists those that are.")
        return loaded[name]

    def number_of(self, run: LoadedRun, item: str) -> int:
        """Item number (1..) of a raw id.

        Raises:
            RefusedError: 404, it is not in the catalogue.
        """
        number = run.recommender.served.shelf.numbers.get(item)
        if number is None:
            raise RefusedError(404, f"item {item!r} is not in the catalogue of {run.name}: check the id.")
        return number

    async def recommend(self, run: LoadedRun, question: Question) -> Recommendations:
        """Answer a question, together with others that come at the same time.

        Raises:
            RefusedError: a limit is exceeded, an id is unknown, or the deadline passed.
            UserError: the recommender does not accept the question.
        """
        limits = self.config.limits
        self._check(run, question, limits.batch, limits.k)
        deadline = time.monotonic() + limits.deadline_seconds
        waiting = Waiting(run.recommender, question.arguments(), question.rows, deadline)
        return await self._until(asyncio.wrap_future(self._batcher.ask(waiting)))

    async def explain(
        self, run: LoadedRun, question: WhyQuestion
    ) -> tuple[list[Explanation], tuple[str, ...], tuple[str, ...]]:
        """Answers with their reasons; and ids to exclude and to include that are unknown.

        Raises:
            RefusedError: see `recommend`.
            UserError: see `recommend`.
        """
        limits = self.config.limits
        self._check(run, question, limits.explain_batch, limits.explain_k)

        def answer() -> tuple[list[Explanation], tuple[str, ...], tuple[str, ...]]:
            asked = run.recommender.prepare(**question.arguments())
            found = explain(run.recommender, asked, question.num_reasons)
            return found, asked.unknown_excluded, asked.unknown_included

        return await self.work(answer)

    async def similar(self, run: LoadedRun, question: SimilarQuestion) -> Recommendations:
        """Items like given ones.

        Raises:
            RefusedError: see `recommend`.
            UserError: see `recommend`.
        """
        self._check_size(question, len(question.items), self.config.limits.batch, self.config.limits.k)
        for item in question.items:
            self.number_of(run, item)
        return await self.work(run.recommender.similar_items, question.items, **question.filters())

    async def work(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a thread, within the deadline.

        Raises:
            RefusedError: 503, the deadline passed.
        """
        deadline = time.monotonic() + self.config.limits.deadline_seconds

        def call() -> T:
            if time.monotonic() > deadline:
                raise TooLateError
            return function(*args, **kwargs)

        return await self._until(asyncio.get_running_loop().run_in_executor(self._work, call))

    async def _until(self, future: "asyncio.Future[T]") -> T:
        try:
            return await asyncio.wait_for(future, self.config.limits.deadline_seconds)
        except (TimeoutError, TooLateError):
            self.metrics.refused.labels("deadline").inc()
            raise RefusedError(
                503, "there was no answer in time: ask for less, or try again later."
            ) from None

    def _check(self, run: LoadedRun, question: Question, batch: int, k: int) -> None:
        self._check_size(question, question.rows, batch, k)
        if question.users is None and question.histories is None:
            raise UserError("give users, histories, or both to append events to the users' histories.")
        longest = self.config.limits.history
        for count, history in enumerate(question.histories or (), start=1):
            if len(history) > longest:
                raise UserError(
                    f"history {count} has {len(history):,} events, more than {longest:,}: send the newest."
                )
        for user in question.users or ():
            if not run.recommender.knows(user):
                raise RefusedError(
                    404, f"user {user!r} is not known: check the id, or give a history instead."
                )

    def _check_size(self, question: Filters, rows: int, batch: int, k: int) -> None:
        if rows > batch:
            raise UserError(f"{rows:,} at once are more than {batch:,}: send several requests.")
        if question.k > k:
            raise UserError(f"k exceeds {k:,}: ask for fewer items.")
        if rows * question.k > self.config.limits.items:
            raise UserError(
                f"{rows:,} times k are more than {self.config.limits.items:,} items: send several requests."
            )
