"""Accounts through binance-sdk-spot, with each of the keys it is given; prints the answers."""

from __future__ import annotations

import json
import sys
from typing import Any

from binance_common.configuration import ConfigurationRestAPI
from binance_common.errors import BadRequestError, UnauthorizedError
from binance_sdk_spot.spot import Spot

asked = json.loads(sys.argv[1])


def told(key: str, secret: str) -> dict[str, Any]:
    where = ConfigurationRestAPI(
        api_key=key, api_secret=secret, base_path=asked["rest"], timeout=10_000
    )
    rest = Spot(config_rest_api=where).rest_api
    try:
        account = rest.get_account(omit_zero_balances=True).data()
        trades = rest.my_trades(symbol=asked["symbol"], from_id=0).data()
    except (BadRequestError, UnauthorizedError) as error:
        return {"kind": type(error).__name__, "said": str(error)}
    return {
        "balances": [one.to_dict() for one in account.balances],
        "maker": account.commission_rates.maker,
        "trades": [one.to_dict() for one in trades],
    }


print(json.dumps([told(*key) for key in asked["keys"]]))
