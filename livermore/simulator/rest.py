"""REST as every exchange has it: counted, misbehaving on command; the rest is its own."""

from __future__ import annotations

from livermore.simulator.exchange import Routes, Stage
from livermore.simulator.http import Reply, Request


class Rest:
    """Answers requests; synchronous, one at a time."""

    def __init__(self, stage: Stage, routes: Routes) -> None:
        self._faults = stage.faults
        self._stats = stage.stats
        self._routes = routes

    def answer(self, request: Request) -> Reply:
        """The reply to one request, faults and limits included."""
        self._stats.rest_requests += 1
        self._stats.paths[request.path] += 1
        refusal = self._routes.turned_away(request)
        if refusal is not None:
            return refusal
        storm = self._faults.one("429")
        if storm is not None:
            self._stats.rest_429 += 1
            return self._routes.too_many(storm.options["retry_after"])
        refusal = self._routes.admit(request)
        if refusal is not None:
            self._stats.rest_429 += refusal.status == 429
            self._stats.rest_418 += refusal.status == 418
            self._stats.over_rate += 1
            return refusal
        failing = self._faults.one("5xx")
        if failing is not None and self._faults.strikes(failing.options["share"]):
            return Reply(failing.options["status"], b"upstream error", content_type="text/plain")
        reply = self._routes.answer(request)
        slow, cut = self._faults.one("slow-rest"), self._faults.one("cut-rest")
        return Reply(
            reply.status,
            reply.body,
            reply.headers,
            reply.content_type,
            delay=slow.options["delay"] if slow else 0.0,
            drip=slow.options["drip"] if slow else 0.0,
            hang_up=cut is not None and self._faults.strikes(cut.options["share"]),
        )
