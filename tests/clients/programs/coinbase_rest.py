"""REST through coinbase-advanced-py, with a key and without; prints what it returned."""

from __future__ import annotations

import json
import sys
from typing import Any

from coinbase.rest import RESTClient
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from requests.exceptions import HTTPError

asked = json.loads(sys.argv[1])
host = asked["secure_rest"].removeprefix("https://")  # the library writes the scheme itself


def a_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PrivateFormat.TraditionalOpenSSL
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    return str(pem.decode())


def refused(product_id: str, **more: Any) -> dict[str, Any]:
    try:
        anyone.get_public_candles(product_id, **more)
    except HTTPError as error:
        assert error.response is not None
        return {"status": error.response.status_code, "said": str(error)}
    return {"status": 200, "said": ""}


anyone = RESTClient(base_url=host, timeout=10)
owner = RESTClient(
    api_key="organizations/o/apiKeys/k", api_secret=a_key(), base_url=host, timeout=10
)
candles = []
for want in asked["candles"]:
    ask = owner.get_candles if want.pop("key") else anyone.get_public_candles
    candles.append([row.to_dict() for row in ask(**want).candles])
listed = anyone.get_public_products(product_type="SPOT")
print(
    json.dumps(
        {
            "candles": candles,
            "time": anyone.get_unix_time().to_dict(),
            "products": [row.to_dict() for row in listed.products],
            "num_products": listed.num_products,
            "with_key": len(owner.get_products(product_type="SPOT").products),
            "product": anyone.get_public_product(asked["symbol"]).to_dict(),
            "trades": anyone.get_public_market_trades(asked["symbol"], 20).to_dict(),
            "unknown": refused("NOPE-USD", start="300", end="600", granularity="FIVE_MINUTE"),
            "too_many": refused(
                asked["symbol"], start="300", end=str(300 * 351), granularity="FIVE_MINUTE"
            ),
        }
    )
)
