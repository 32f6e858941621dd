"""REST through binance-sdk-spot; prints what it returned."""

from __future__ import annotations

import json
import sys

from binance_common.configuration import ConfigurationRestAPI
from binance_common.errors import BadRequestError
from binance_sdk_spot.spot import Spot

asked = json.loads(sys.argv[1])
client = Spot(config_rest_api=ConfigurationRestAPI(base_path=asked[asked["over"]], timeout=10_000))
rest = client.rest_api
klines, weights = [], []
for want in asked["candles"]:
    reply = rest.klines(**want)
    klines.append(reply.data())
    weights.append(sum(limit.count for limit in reply.rate_limits if limit.intervalNum == 1))
info = rest.exchange_info().data()
symbol = asked["symbol"]
try:
    rest.klines(symbol="NOPE", interval="5m")
    refused = ""
except BadRequestError as error:
    refused = str(error)
print(
    json.dumps(
        {
            "klines": klines,
            "weights": weights,
            "time": rest.time().data().server_time,
            "symbols": [row.to_dict() for row in info.symbols],
            "rate_limits": [row.to_dict() for row in info.rate_limits],
            "one": rest.exchange_info(symbol=symbol).data().symbols[0].to_dict(),
            "ticker": rest.ticker24hr(symbol=symbol).data().actual_instance.to_dict(),
            "tickers": [row.to_dict() for row in rest.ticker24hr().data().actual_instance],
            "refused": refused,
        }
    )
)
