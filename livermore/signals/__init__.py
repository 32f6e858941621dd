"""What is computed from closed candles; pure: values in, values out.

::

    state      what a series carries from candle to candle             state.py
    step       one candle enters every series of a batch at once       macdv.py
    stage      a name for where MACD-V stands against its signal       stage.py
    reading    the numbers at a closed candle, or why there are none   reading.py
    rule       what is worth an alert, as it is configured             rule.py
    rules      which alerts a series' closed candles make and unmake   rules.py
"""
