"""Operators' figures: what the line, the stock and the record look like now, once a second, to those who watch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from onsale.queue.feed import Feed, KnownLine
from onsale.queue.frame import Frame, rfc3339
from onsale.queue.ports import ShopPort, StockFigures
from onsale.queue.schemas import Funnel, Lag, LiveFigures, LiveStock
from onsale.queue.stream import Streams

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class LiveTick:
    """Sales whose figures were written, and to how many operators."""

    sales: int = 0
    written: int = 0


class Live:
    """`tick` is called each second. `record_lag_ms` says how far the record is behind for a sale, None = not known."""

    def __init__(
        self,
        feed: Feed,
        streams: Streams,
        shop: ShopPort,
        record_lag_ms: Callable[[str], int | None] = lambda _sale: None,
    ) -> None:
        self._feed = feed
        self._streams = streams
        self._shop = shop
        self._record_lag_ms = record_lag_ms

    async def tick(self) -> LiveTick:
        """Write every watched sale's figures. Sales that nobody watches cost nothing."""
        watched = self._streams.watched_live()
        written = 0
        for sale_no in watched:
            line = self._feed.line_of(sale_no)
            figures = await self.figures(line)
            event_id = f"{figures.line.epoch}-{figures.line.seq}"
            written += await self._streams.publish_live(sale_no, _encode(figures), event_id)
        return LiveTick(len(watched), written)

    async def figures(self, line: KnownLine) -> LiveFigures:
        """One sale's figures. What cannot be asked at this moment is null."""
        now_ms = self._feed.now_ms()
        frame = line.shown(now_ms)
        stock = await self._stock(line.sale.id)
        record_lag_ms = self._record_lag_ms(line.sale.id)
        return LiveFigures(
            as_of=rfc3339(now_ms),
            line=frame.document,
            funnel=_funnel(frame, stock),
            stock=LiveStock(stock.free, stock.held, stock.claimed, stock.sold) if stock is not None else None,
            record_lag_ms=record_lag_ms,
            lag=Lag(
                line_ms=max(0, now_ms - frame.as_of_ms),
                # Line and shop may be on servers with clocks of their own.
                stock_ms=max(0, now_ms - stock.at_ms) if stock is not None else None,
                record_ms=record_lag_ms,
            ),
            streams=self._streams.open_count,
        )

    async def _stock(self, sale: str) -> StockFigures | None:
        try:
            return await self._shop.figures(sale)
        except Exception:
            # Whatever keeps the other room from answering is its own to report; operators see that it is not known.
            return None


def _funnel(frame: Frame, stock: StockFigures | None) -> Funnel:
    document = frame.document
    return Funnel(
        joined=document.tail,
        waiting=document.waiting,
        absent=document.absent,
        admitted=document.admitted,
        active=document.active,
        held=stock.held if stock is not None else None,
        claimed=stock.claimed if stock is not None else None,
        sold=stock.sold if stock is not None else None,
    )
