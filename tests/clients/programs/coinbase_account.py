"""Accounts through coinbase-advanced-py, with each of the keys it is given; prints the answers."""

from __future__ import annotations

import json
import sys
from typing import Any

from coinbase.rest import RESTClient
from requests.exceptions import HTTPError

asked = json.loads(sys.argv[1])
host = asked["secure_rest"].removeprefix("https://")  # the library writes the scheme itself


def told(key: str, secret: str) -> dict[str, Any]:
    client = RESTClient(api_key=key, api_secret=secret, base_url=host, timeout=10)
    accounts: list[Any] = []
    try:
        page = client.get_accounts(limit=4)
        accounts += [one.to_dict() for one in page.accounts]
        while page.has_next:
            page = client.get_accounts(limit=4, cursor=page.cursor)
            accounts += [one.to_dict() for one in page.accounts]
        return {
            "accounts": accounts,
            "orders": [one.to_dict() for one in client.list_orders(limit=250).orders],
            "fees": client.get_transaction_summary().to_dict(),
            "rights": client.get_api_key_permissions().to_dict(),
        }
    except HTTPError as error:
        assert error.response is not None
        return {"status": error.response.status_code, "said": error.response.text}


print(json.dumps([told(*key) for key in asked["keys"]]))
