"""Accounts through ccxt, with each of the keys it is given; prints the answers."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import ccxt

asked = json.loads(sys.argv[1])


def told(key: str, secret: str) -> dict[str, Any]:
    keys = {"apiKey": key, "secret": secret}
    exchange = getattr(ccxt, asked["exchange"])({**asked["options"], **keys})
    exchange.urls["api"].update(asked["urls"])
    # Handed on to requests, which looks at no environment here.
    exchange.validateServerSsl = os.environ["SSL_CERT_FILE"]
    try:
        return {
            "total": exchange.fetch_balance(asked["params"])["total"],
            "trades": exchange.fetch_my_trades(asked["symbol"]) if asked["trades"] else [],
        }
    except ccxt.AuthenticationError as error:
        return {"said": str(error)}


print(json.dumps([told(*key) for key in asked["keys"]]))
