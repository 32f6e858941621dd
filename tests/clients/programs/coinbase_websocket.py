"""A websocket of coinbase-advanced-py; prints what it heard until enough candles began."""

from __future__ import annotations

import json
import sys
from typing import Any

from coinbase.websocket import WebsocketResponse, WSClient

asked = json.loads(sys.argv[1])
symbols, url = asked["symbols"], asked[asked["over"]]
frames: list[str] = []
heard: list[dict[str, Any]] = []
begun: set[str] = set()
client = WSClient(base_url=url, on_message=frames.append, timeout=10)


def read() -> None:
    """What has come since, by the library's own classes."""
    while len(heard) < len(frames):
        said = WebsocketResponse(json.loads(frames[len(heard)]))
        row = {"channel": said.channel, "time": said.timestamp, "sequence": said.sequence_num}
        heard.append(row | {"events": [event.to_dict() for event in said.events]})
        for event in said.events if said.channel == "candles" else ():
            if event.type == "update":
                begun.update(row.start for row in event.candles if row.product_id == symbols[0])


client.open()
client.candles(symbols)
client.market_trades(symbols)
client.ticker(symbols)
client.heartbeats()
while len(begun) < asked["candles"]:
    client.sleep_with_exception_check(0.1)
    read()
client.unsubscribe_all()
client.heartbeats_unsubscribe()
while heard[-1]["events"] != [{"subscriptions": {}}]:
    client.sleep_with_exception_check(0.05)
    read()
client.close()
print(json.dumps(heard))
