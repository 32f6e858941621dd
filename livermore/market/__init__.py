"""The vocabulary, without I/O.

Five nouns: a **series** (exchange, symbol, timeframe) is made of closed **candles**; **events** are
what frames mean; the **tracker** turns events into closes and gaps; **folding** makes the higher
timeframes from five-minute candles.
"""
